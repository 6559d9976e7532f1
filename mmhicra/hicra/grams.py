"""Strategic Grams (SGs): the phrases that mark planning, with where they came from (paper section 2.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mmhicra.core.errors import UserError, brief, one_line
from mmhicra.core.resources import asset_path

GramFunction = Literal["deduction", "branching", "backtracing", "framing", "unlabelled"]
"""What a gram does. The paper names the first three, but labels no entry; `framing` is discourse, goals."""

SHIPPED_LIBRARIES = ("published_249", "released_193", "strategy_chunks")
"""What the paper prints (appendix A), what its released code is said to match, and our phrases by reasoning action."""

# One character for one, so that folding a text moves none of its indices. Lower-casing alone would move them:
# U+0130 is the one character whose lower case is longer than itself.
_FOLDED = {ord(c): "'" for c in "‘’‛′ʼ＇"} | {ord(c): '"' for c in "“”‟″＂"} | {0x130: "i"}


def fold(text: str) -> str:
    """Lower case and straight quotes, character by character: the result is as long as the text."""
    return (text if text.isascii() else text.translate(_FOLDED)).lower()


def normalise(text: str) -> str:
    """The form grams are compared in: folded, every run of white space one space, none at the ends."""
    return " ".join(fold(text).split())


@dataclass(frozen=True)
class Gram:
    """One phrase, as its source prints it.

    Attributes:
        text: matched after `normalise`.
        function: what it does for the argument.
        cluster: which group of grams of like meaning it belongs to: a mined cluster or a reasoning action.
    """

    text: str
    function: GramFunction = "unlabelled"
    cluster: str = ""

    @property
    def words(self) -> int:
        """How many words it has, split at white space."""
        return len(self.text.split())


_MOST_BYTES = 2**26
"""Of a library's file; the shipped ones have 20 kB."""
_FIELDS = [field.name for field in fields(Gram)]


@dataclass(frozen=True)
class GramLibrary:
    """A set of distinct grams under one name. Blank, unprintable and repeated grams are refused.

    So is a cluster that is unprintable or has white space at an end: two names of one cluster would look alike.

    Attributes:
        name: what configuration, logs and refusals call it.
        grams: at least one, all different after `normalise`.
        provenance: where they came from, as free fields.
    """

    name: str
    grams: tuple[Gram, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.grams:
            raise UserError(f"gram library {self.name}: it holds no gram: give it at least one")
        first: dict[str, int] = {}
        for number, gram in enumerate(self.grams, start=1):
            key = normalise(gram.text)
            if not key or not key.isprintable():
                blank = f"entry {number} ({brief(gram.text)}) is blank or unprintable"
                raise UserError(f"gram library {self.name}: {blank}: mend it")
            if key in first:
                repeat = f"entry {number} ({brief(gram.text)}) repeats entry {first[key]}"
                raise UserError(f"gram library {self.name}: {repeat}: remove one")
            first[key] = number
            if not gram.cluster.isprintable() or gram.cluster != gram.cluster.strip():
                named = f"entry {number} ({brief(gram.text)}) has cluster {brief(gram.cluster)}"
                raise UserError(f"gram library {self.name}: {named}: use a printable name without spaces at its ends")

    def __len__(self) -> int:
        return len(self.grams)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the sorted normalised texts: what is matched, whatever the name, order or labels."""
        texts = sorted(normalise(gram.text) for gram in self.grams)
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()

    @classmethod
    def load(cls, name_or_path: str | Path) -> GramLibrary:
        """A shipped library by name, else a file: what `save` writes, a JSON list of strings, a gram a line.

        A file ending in `.json` is JSON, any other is text, in which blank lines are ignored.

        Raises:
            UserError: the file is missing, unreadable or empty, or an entry is blank, repeated or no gram.
        """
        if name_or_path in SHIPPED_LIBRARIES:
            return _from_json(asset_path(f"strategic_grams/{name_or_path}.json"))
        path = Path(name_or_path)
        return _from_json(path) if path.suffix.lower() == ".json" else _from_text(path)

    def save(self, path: str | Path) -> None:
        """Write the JSON that `load` reads, one gram a line.

        Raises:
            UserError: the path does not end in `.json`.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise UserError(f"gram library {self.name}: {path} would not be read back as JSON: name it *.json")
        head = json.dumps({"name": self.name, "provenance": dict(self.provenance)}, indent=2, ensure_ascii=False)
        rows = ",\n".join("    " + json.dumps(_entry(gram), ensure_ascii=False) for gram in self.grams)
        path.write_text(f'{head[:-2]},\n  "grams": [\n{rows}\n  ]\n}}\n', encoding="utf-8")

    def merge(self, other: GramLibrary) -> GramLibrary:
        """The grams of both; where they share one, this library's text, function and cluster stay."""
        known = {normalise(gram.text) for gram in self.grams}
        new = tuple(gram for gram in other.grams if normalise(gram.text) not in known)
        provenance = {self.name: dict(self.provenance), other.name: dict(other.provenance)}
        return GramLibrary(f"{self.name}+{other.name}", self.grams + new, provenance)

    def subset(self, *, min_words: int = 1, functions: Collection[GramFunction] | None = None) -> GramLibrary:
        """The grams with at least `min_words` words and, if `functions` is given, one of those functions.

        Raises:
            UserError: none is left.
        """
        kept = tuple(
            gram for gram in self.grams if gram.words >= min_words and (functions is None or gram.function in functions)
        )
        if len(kept) == len(self):
            return self
        conditions = [f"min_words={min_words}"] if min_words > 1 else []
        conditions += [f"functions={'|'.join(sorted(functions))}"] if functions is not None else []
        return GramLibrary(f"{self.name}[{','.join(conditions)}]", kept, self.provenance)


def _from_text(path: Path) -> GramLibrary:
    text = _read(path)
    if text.lstrip()[:1] in ("{", "["):
        raise UserError(f"gram library {path}: it looks like JSON, but its name does not end in .json: rename it")
    lines = text.splitlines()
    return GramLibrary(str(path), tuple(Gram(line.strip()) for line in lines if line.strip()))


def _from_json(path: Path) -> GramLibrary:
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of more than 4 300 digits
        raise UserError(f"gram library {path}: not JSON ({one_line(str(error))}): mend the file") from None
    if isinstance(content, list):
        content = {"grams": content}
    if not isinstance(content, dict) or not isinstance(content.get("grams"), list):
        raise UserError(
            f'gram library {path}: neither a list of strings nor an object with a list "grams": mend the file'
        )
    name, provenance = content.get("name", str(path)), content.get("provenance", {})
    if not isinstance(name, str) or not name.isprintable() or not isinstance(provenance, dict):
        raise UserError(
            f'gram library {path}: "name" must be a printable string and "provenance" an object: mend the file'
        )
    try:
        json.dumps(provenance, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f'gram library {path}: "provenance" holds half of a surrogate pair: mend the file') from None
    grams = tuple(_gram(entry, number, path) for number, entry in enumerate(content["grams"], start=1))
    checked = GramLibrary(str(path), grams, provenance)  # refused by the name of the file, known by its own
    return replace(checked, name=name)


def _entry(gram: Gram) -> dict[str, str]:
    entry = {"text": gram.text, "function": gram.function}
    return entry | {"cluster": gram.cluster} if gram.cluster else entry


def _gram(entry: object, number: int, path: Path) -> Gram:
    if isinstance(entry, str):
        return Gram(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or not entry.keys() <= set(_FIELDS):
        known = ", ".join(f'"{name}"' for name in _FIELDS)
        raise UserError(f"gram library {path}: entry {number} is neither a string nor {{{known}}}: mend it")
    gram = Gram(**entry)
    if not isinstance(gram.function, str) or gram.function not in get_args(GramFunction):
        known = ", ".join(get_args(GramFunction))
        raise UserError(f"gram library {path}: entry {number} has function {brief(gram.function)}: use one of {known}")
    if not isinstance(gram.cluster, str):
        raise UserError(f"gram library {path}: entry {number} has cluster {brief(gram.cluster)}: use a string")
    return gram


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")
        if path.stat().st_size > _MOST_BYTES:
            raise OSError(f"it has more than {_MOST_BYTES // 2**20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        shipped = ", ".join(SHIPPED_LIBRARIES)
        raise UserError(f"gram library {one_line(str(path))}: no such file: give a path or one of {shipped}") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL character in the path
        name, reason = one_line(str(path)), one_line(str(error))
        raise UserError(f"gram library {name}: cannot be read ({reason}): give a UTF-8 text or JSON file") from None
