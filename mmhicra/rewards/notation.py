"""One plain spelling for the many ways an answer is written: LaTeX, Unicode, Markdown."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST_ANSWER = 1000
"""Characters of an answer or a gold that are looked at; a longer one is refused, not cut."""

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal|bb|cal)|mbox|hbox|operatorname\*?"
    r"|boldsymbol|bm|emph|underline|overline|boxed|fbox|framebox)\s*(?=\{)"
)
_VULGAR_FRACTION = re.compile(r"[¼½¾⅐-⅞]")
_DEGREE = re.compile(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)(?![a-zA-Z])|\\degree(?![a-zA-Z])")
_THOUSANDS = re.compile(r"\{\s*,\s*\}")
_RESPELLED = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle|limits|[bB]igg?)(?![a-zA-Z])|\\[,!]"), ""),
    (re.compile(r"\\(?:[;: ]|q?quad(?![a-zA-Z]))|~"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·⋅∙∗]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|[÷⁄]"), "/"),
    (re.compile(r"\\(?:approx|simeq|thickapprox)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\\?%|(?<=[\d\s])(?:percent|per cent)(?![a-zA-Z])"), "%"),
    (re.compile(r"\\[()\[\]]|\\?\$|\*\*|__|`"), " "),
    (re.compile(r"\s+"), " "),
)
_GLYPHS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "²": "^2", "³": "^3", "掳": "°", "º": "°", "，": ",", "：": ":"}
    | {"√": r"\sqrt ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup "}
    | {"“": '"', "”": '"', "‘": "'", "’": "'"}
)
_HYPHEN = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
_PUNCTUATION = re.compile(r"[^\w\s+\-*/^=<>%°.()\[\]]|(?<!\d)\.|\.(?!\d)|_")


def brace_pairs(text: str) -> dict[int, int]:
    """Where each balanced `{` closes, escaped braces left out; linear in the text however hostile it is."""
    pairs: dict[int, int] = {}
    still_open: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            still_open.append(match.start())
        elif match[0] == "}" and still_open:
            pairs[still_open.pop()] = match.start()
    return pairs


def unwrap(text: str) -> str:
    r"""Replace `\text{x}`, `\textbf{x}`, `\mathrm{x}`, `\boxed{x}` and their kin by ` x `."""
    pairs = brace_pairs(text)
    gone: list[tuple[int, int]] = []
    for match in _WRAPPER.finditer(text):
        if match.end() in pairs:
            close = pairs[match.end()]
            gone += [(match.start(), match.end() + 1), (close, close + 1)]
    pieces, at = [], 0
    for start, end in sorted(gone):
        pieces.append(text[at:start])
        at = end
    return " ".join([*pieces, text[at:]])


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    r"""The one spelling that values, options and algebra read.

    Dollar signs, font and spacing commands are gone; `\frac`, `\sqrt` and `\pi` remain LaTeX; degree signs are `°`,
    products `*`, approximations `≈`; other Unicode is folded (NFKC); white space is single; no full stop at the end.
    """
    text = _VULGAR_FRACTION.sub(lambda fraction: f" {fraction[0]}", text).translate(_GLYPHS)
    text = unicodedata.normalize("NFKC", text).translate(_GLYPHS)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = _THOUSANDS.sub(",", _DEGREE.sub("°", unwrap(text)))
    for pattern, spelling in _RESPELLED:
        text = pattern.sub(spelling, text)
    return text.lstrip(" ,;:").rstrip(" .,;:。、")


def compact(text: str) -> str:
    """`plain` without white space and without braces around one character: equal strings are the same writing."""
    return re.sub(r"\{(\w)\}", r"\1", plain(text).replace(" ", ""))


@lru_cache(maxsize=4096)
def words(text: str) -> str:
    """`plain` in lower case without punctuation and leading article: what answers of kind `text` are compared by."""
    bare = _PUNCTUATION.sub(" ", _HYPHEN.sub(" ", plain(text))).casefold()
    bare = re.sub(r"^(?:the|an?) (?=.)", "", re.sub(r"\s+", " ", bare).strip())
    return re.sub(r"\s*([^\w\s])\s*", r"\1", bare)


def control_character(text: str) -> str | None:
    r"""The first control character that is no white space: a null byte, or a lost backslash (`\x0crac{1}{2}`)."""
    found = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\t\n\r"), None)
    return None if found is None else f"U+{ord(found):04X}"
