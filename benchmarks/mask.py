"""How many tokens a second the planning mask takes in, with the published list and with a very large one."""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.spread import spread
from mmhicra.core.errors import UserError
from mmhicra.core.resources import asset_path
from mmhicra.hicra.grams import Gram, GramLibrary, normalise
from mmhicra.hicra.planning import PlanningMatcher

TARGET = 1_000_000
"""Tokens a second and core, at least, with the published list."""

TARGET_RATIO = 1.5
"""How many times longer the large library may take."""

VOCABULARY = 20_000
"""Different words in the synthesised text and in the random grams, drawn by Zipf's law."""


def run_mask(
    pairs: int = 7,
    grams: int = 100_000,
    responses: str | Path | None = None,
    field: str = "response",
    tokenizer: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure `PlanningMatcher.mask`, one response a call, the two libraries in turn in one process.

    Seconds are processor seconds of this process, so other work on the machine counts little. A tokenizer with
    long tokens has more text to search per token: beside the tiny VLM's (about 2 characters a token) stands one
    trained on the responses (about 4, as those of large models have).

    Args:
        pairs: how often both are measured; the medians are reported.
        grams: size of the large library: the published list and random n-grams of 3 to 5 words.
        responses: JSON Lines of strings, or of objects with the response in `field`; else text is synthesised.
        field: of an object in `responses`.
        tokenizer: a `tokenizer.json` to measure with instead.
        seed: of the text and of the random grams.

    Returns:
        `tokenizers`: by name the median tokens a second, the ratio and the spread; what was measured, with what.

    Raises:
        UserError: an option is out of range, or `responses` cannot be used.
    """
    if pairs < 1 or grams < 1000:
        raise UserError(f"mask benchmark: pairs is {pairs} and grams {grams}: use at least 1 and 1000")
    words = _Words(seed)
    texts = _read(Path(responses), field) if responses else [words.response() for _ in range(1000)]
    published = GramLibrary.load("published_249")
    large = published.merge(words.library(grams - len(published), published))
    if tokenizer:
        tokenizers = {str(tokenizer): Tokenizer.from_file(str(tokenizer))}
    else:
        tiny = Tokenizer.from_file(str(asset_path("tiny_vlm/tokenizer.json")))
        tokenizers = {"tiny VLM": tiny, "trained here": _train(texts)}
    return {
        "tokenizers": {name: _measure(one, texts, (published, large), pairs) for name, one in tokenizers.items()},
        "target": {"tokens_per_second": TARGET, "ratio": TARGET_RATIO},
        "grams": {"published": len(published), "large": len(large)},
        "text": str(responses) if responses else f"synthesised, seed {seed}",
        "responses": len(texts),
        "pairs": pairs,
        "seconds": "processor seconds, one core",
        "processor": platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("mmhicra", "numpy", "pyahocorasick", "tokenizers", "torch")},
    }


def print_mask(result: dict[str, Any], console: Console | None = None) -> None:
    """A table of what `run_mask` returned: a line per tokenizer, medians with their range."""
    small, large = (f"{result['grams'][name]:,} grams" for name in ("published", "large"))
    table = Table("tokenizer", "characters a token", small, large, "times longer", "density", title="planning mask")
    for name, row in result["tokenizers"].items():
        table.add_row(
            name,
            f"{row['characters_per_token']:.2f}",
            *(_rate(row[library]) for library in ("published", "large")),
            "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"]),
            f"{row['density']:.1%}",
        )
    console = console or Console()
    console.print(table)
    console.print(
        f"million tokens a second and core, median and range of {result['pairs']} pairs; "
        f"{result['responses']} responses ({result['text']})"
    )
    console.print(f"wanted: at least {TARGET / 1e6:g} with the published list, at most {TARGET_RATIO} times longer")


def _rate(figures: dict[str, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*(figures[name] / 1e6 for name in ("median", "low", "high")))


def _measure(
    tokenizer: Tokenizer, texts: Sequence[str], libraries: tuple[GramLibrary, GramLibrary], pairs: int
) -> dict[str, Any]:
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    tokens = sum(map(len, rows))
    matchers = [PlanningMatcher(library, tokenizer) for library in libraries]
    planning = sum(int(matchers[0].mask(ids).sum()) for ids in rows)  # also warms up
    seconds = [[_seconds(matcher, rows) for matcher in matchers] for _ in range(pairs)]
    return {
        "published": spread([tokens / one for one, _ in seconds]),
        "large": spread([tokens / other for _, other in seconds]),
        "ratio": spread([other / one for one, other in seconds]),
        "tokens": tokens,
        "characters_per_token": sum(map(len, texts)) / tokens,
        "density": planning / tokens,
        "vocabulary": tokenizer.get_vocab_size(),
    }


def _seconds(matcher: PlanningMatcher, rows: Sequence[Sequence[int]]) -> float:
    start = time.process_time()
    for ids in rows:
        matcher.mask(ids)
    return time.process_time() - start


class _Words:
    """Pseudo-words of English letters, the frequent ones short, as in a language; text and n-grams from them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.phrases = [gram.text for gram in GramLibrary.load("published_249").grams]
        letters, counts = zip(*_LETTERS, strict=True)
        words: dict[str, None] = {}
        while len(words) < VOCABULARY:
            length = round(self.rng.uniform(2, 3 + 9 * (len(words) / VOCABULARY) ** 0.3))
            words["".join(self.rng.choices(letters, counts, k=length))] = None
        self.words = list(words)
        self.weights = list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY)))

    def response(self) -> str:
        """About 300 words in sentences, with phrases of the published list, numbers and LaTeX between."""
        pieces = []
        for _ in range(self.rng.randint(10, 50)):
            sentence = self.draw(self.rng.randint(5, 14))
            if self.rng.random() < 0.4:
                sentence.insert(0, self.rng.choice(self.phrases))
            if self.rng.random() < 0.4:
                number = self.rng.randrange(1000)
                sentence.append(self.rng.choice([f"{number}", f"$x = {number}$", f"\\frac{{{number}}}{{2}} = 3.5"]))
            pieces.append(" ".join(sentence).capitalize() + self.rng.choice([". ", ". ", ", ", ".\n", ":\n\n"]))
        return "".join(pieces)

    def library(self, size: int, known: GramLibrary) -> GramLibrary:
        """So many n-grams of 3 to 5 words, none of them known."""
        texts = {normalise(gram.text): None for gram in known.grams}
        while len(texts) < size + len(known):
            texts[" ".join(self.draw(self.rng.randint(3, 5)))] = None
        return GramLibrary("random", tuple(Gram(text) for text in list(texts)[len(known) :]))

    def draw(self, count: int) -> list[str]:
        return self.rng.choices(self.words, cum_weights=self.weights, k=count)


_LETTERS = list(zip("etaoinshrdlcumwfgypbvkjxqz", [*range(120, 12, -6), *[10] * 8], strict=True))
"""In the order of their frequency in English, roughly weighted."""


def _train(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _read(path: Path, field: str) -> list[str]:
    try:
        texts = list(_responses(path, field))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"responses {path}: cannot be read ({error}): give JSON Lines") from None
    if not any(texts):
        raise UserError(f"responses {path}: it holds no text: give at least one response")
    return texts


def _responses(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        text = row.get(field) if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise UserError(f"responses {path}: line {number} has no text in {field!r}: name the field that has it")
        yield text
