r"""Matrices, vectors, determinants, systems: `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}`, `\langle 1, 2 \rangle`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.rewards.notation import LONGEST_ANSWER, brace_pairs

_ENVIRONMENT = re.compile(
    r"\\begin\s*\{(?P<name>[pbvBV]?(?:small)?matrix|array|d?cases|aligned|gathered|split)\*?\}(?P<columns>\s*\{[clr|\s]*\})?"
    r"(?P<body>.*?)\\end\s*\{(?P=name)\*?\}",
    re.DOTALL,
)
_AROUND = re.compile(
    r"\\left\s*(?:\\\{|[(\[{|.])|\\right\s*(?:\\\}|[)\]}|.])|\\(?:displaystyle|,|;|!|quad|qquad)(?![a-zA-Z])|[$\s.,()\[\]]|\\\{"
)
_LABEL = re.compile(
    r"^\s*\$*\s*(?:\\(?:vec|mathbf|overrightarrow|boldsymbol|bm)\s*\{?\s*)?[A-Za-z]"
    r"(?:\^\{?-?\w{1,3}\}?|_\{?\w\}?|\([\w, ]{1,9}\))?\s*\}?\s*=\s*"
)
_ROW = re.compile(r"\\\\(?:\s*\[[^\]]{0,9}\])?|\\cr(?![a-zA-Z])")
_CELL = re.compile(r"(?<!\\)&")
_ANGLES = re.compile(
    r"\s*\$*\s*(?:\\left\s*)?(?:\\langle|<|⟨)\s*([^<>⟨⟩]{1,300}?)\s*(?:\\right\s*)?(?:\\rangle|>|⟩)\s*\$*\s*\.?\s*"
)
_NESTED = re.compile(r"\s*\$*\s*\[\s*(\[[^\[\]]{1,200}\](?:\s*,\s*\[[^\[\]]{1,200}\])*)\s*\]\s*\$*\s*")
_COMMA = re.compile(r"\s*[,;]\s*")
_CONDITION = re.compile(
    r"^\s*(?:,|\\text\s*\{[^{}]{0,20}\}|\\quad|\\mbox\s*\{[^{}]{0,20}\}|if|when|for|当|若)+\s*|\s*[,;，；]\s*$"
)


@dataclass(frozen=True)
class Matrix:
    """Rows of cells as they were written. `kind` is matrix, determinant, vector (`<1, 2>`) or system."""

    rows: tuple[tuple[str, ...], ...]
    kind: str


@lru_cache(maxsize=2048)
def read_matrix(text: str) -> Matrix | None:
    """The one matrix, vector, determinant or system that `text` is."""
    if len(text) > LONGEST_ANSWER or not any(mark in text for mark in (r"\begin", "angle", "<", "⟨", "[[", "[ [")):
        return None
    if found := _ENVIRONMENT.search(text):
        around = _LABEL.sub("", text[: found.start()]), text[found.end() :]
        if any(_AROUND.sub("", _unboxed(part)).strip("{}|") for part in around):
            return None
        return _from_environment(found)
    if angles := _ANGLES.fullmatch(_LABEL.sub("", text)):
        cells = _COMMA.split(angles[1])
        return Matrix(tuple((cell,) for cell in cells), "vector") if len(cells) > 1 else None
    if nested := _NESTED.fullmatch(_LABEL.sub("", text)):
        rows = re.findall(r"\[([^\[\]]*)\]", nested[1])
        return Matrix(tuple(tuple(_COMMA.split(row.strip())) for row in rows), "matrix")
    return None


def _from_environment(found: re.Match[str]) -> Matrix | None:
    name = found["name"]
    rows = [row for row in _ROW.split(found["body"].replace(r"\hline", "")) if row.strip()]
    cells = tuple(tuple(cell.strip() for cell in _CELL.split(row)) for row in rows)
    if not cells:
        return None
    if "cases" in name or name in ("aligned", "gathered", "split") or (name == "array" and _is_system(cells)):
        cells = tuple(tuple(_CONDITION.sub("", cell) for cell in row) for row in cells)
        pieces = name.endswith("cases") and any(len(row) > 1 and "=" not in "".join(row[:1]) for row in cells)
        if not pieces:
            cells = tuple((" ".join(row),) for row in cells)
        return Matrix(cells, "system")
    return Matrix(cells, "determinant" if name[0] in "vV" else "matrix")


def _is_system(cells: tuple[tuple[str, ...], ...]) -> bool:
    return all("=" in "".join(row) for row in cells)


def _unboxed(text: str) -> str:
    pairs = brace_pairs(text)
    return text if not pairs else re.sub(r"\\boxed\s*\{", "", text)
