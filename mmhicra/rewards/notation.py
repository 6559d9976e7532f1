"""One plain spelling for the many ways an answer is written: LaTeX, Unicode, Markdown."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST_ANSWER = 1000
"""Characters of an answer or a gold that are read; a longer one is refused, not cut."""

_PLAIN_ALREADY = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?|[A-Za-z]")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FONTS = (
    r"text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal|bb|cal)|mbox|hbox|operatorname\*?|boldsymbol|bm|emph"
)
_WRAPPER = re.compile(
    rf"\\(?:{_FONTS}|underline|overline|boxed|fbox|framebox|cancel)\s*(?=\{{)"
    r"|\\(?:textcolor|colorbox)\s*\{\s*[\w!]{1,30}\s*\}\s*(?=\{)"
)
_VULGAR_FRACTION = re.compile(r"[¼½¾⅐-⅞]")
_DEGREE = re.compile(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)(?![a-zA-Z])|\\degree(?![a-zA-Z])")
_BEFORE_UNWRAPPING = (  # pattern, spelling, and an example of what it is for
    (re.compile(r"(?<=[\d}])[ \t]*\n[ \t]*(?=-?\d)"), "; ", "96\n376"),
    (re.compile(r"(?<=[\d}])\s*\$\$?\s*\$\$?\s*(?=-?\d|\\[dt]?frac)"), "; ", "$$96$$ $$376$$"),
    (re.compile(r"(?:\$\s*)?\{\s*\}(?=\s*\^)"), "", r"30{}^\circ"),
    (re.compile(r",\s*\\!\s*|\{\s*,\s*\}"), ",", r"11,\! 111; 1{,}234"),
    (re.compile(r"(?<=\d)(?:\\[,:; ]|~|[\u2009\u202f\u00a0])\s?(?=\d{3}(?!\d))"), "", r"1\,234"),
    (re.compile(r"\\color\s*(?:\[\w{1,9}\])?\s*\{\s*[\w!.,\s]{1,30}\}"), "", r"\color{red}{42}"),
    (re.compile(r"\\(?:checkmark|qed|blacksquare|square)(?![a-zA-Z])"), " ", r"42 \checkmark"),
    (
        re.compile(r"</?(?:strong|em|br|span|center|p|div|sup|sub)\s?/?>|</[bi]>|<[bi]>(?=[^<>]*</[bi]>)"),
        " ",
        "<b>42</b>",
    ),
    (
        re.compile(
            r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|rm|bf|it|sf|tt|cal|boldmath"
            rf"|bfseries|itshape|{_FONTS}|displaystyle|textstyle|scriptstyle|limits|nolimits)(?![a-zA-Z])(?!\s*\{{)"
        ),
        " ",
        r"\large 42; \mathrm \pi",
    ),
    (
        re.compile(
            r"\\(?:h|v)?space\*?\s*\{[^{}]{0,20}\}|\\(?:v|h)?phantom\s*\{[^{}]{0,20}\}|\\tag\*?\s*\{[^{}]{0,20}\}"
        ),
        " ",
        "",
    ),
    (re.compile(r"(?<=[\d.])\s*\\(?:bar|overline|overbar|dot|widebar)\s*(\d)(?!\d)"), r"\\overline{\1}", r"0.\bar3"),
    (re.compile(r"(?<=[\d.])\s*\\(?:bar|overbar|widebar)\s*\{\s*(\d+)\s*\}"), r"\\overline{\1}", r"0.\bar{3}"),
    (
        re.compile(r"(?<=[\d.])\s*\\dot\s*\{\s*(\d)\s*\}(?:(\d{0,30})\s*\\dot\s*\{\s*(\d)\s*\})?"),
        r"\\overline{\1\2\3}",
        r"0.\dot{1}4285\dot{7}",
    ),
    (re.compile(r"(?<=\d)\.(\d*)\((\d{1,30})\)(?=\s*$|\s*\$)"), r".\1\\overline{\2}", "0.1(6)"),
    (re.compile(r"(?<=[\d.])((?:\d[\u0304\u0305])+)"), lambda run: rf"\overline{{{_bare(run[1])}}}", "0.3\u0305"),
    (re.compile(r"\\prime(?![a-zA-Z])|[′’]"), "'", r"35°20^\prime"),
    (re.compile(r"\^\s*\{?\s*('+)\s*\}?"), r"\1", "20^{'}"),
)
_RESPELLED = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right|displaystyle|limits|[bB]igg?[lrm]?|hfill|par)(?![a-zA-Z])|\\[,!]"), ""),
    (re.compile(r"\\(?:[;: ]|q?quad(?![a-zA-Z])|nobreakspace|enspace|thinspace|\n)|~"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·⋅∙∗]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|[÷⁄]"), "/"),
    (re.compile(r"\\(?:approx|simeq|thickapprox)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\\leqslant(?![a-zA-Z])|\\leqq(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\geqslant(?![a-zA-Z])|\\geqq(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\?(?<![A-Za-z])sqrt\s*\(([^()]{1,80})\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:varnothing|O|empty)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\colon(?![a-zA-Z])"), ":"),
    (re.compile(r"\\?%|(?<=[\d\s])(?:percent|per cent)(?![a-zA-Z])"), "%"),
    (re.compile(r"\\[()\[\]]|\\?\$|\*\*|__|`"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<![\d.,^_])(\d{1,3})((?: \d{3})+)(?![\d,]|\.\d{4}|\s*/| \d)"), lambda run: run[0].replace(" ", "")),
    (
        re.compile(r"(?<=\d)\.(\d{0,30}?)(\d{1,6}?)\2{1,60}\s*(?:\\[lcd]?dots(?![a-zA-Z])|\.\.\.+|…)(?!\s*,)"),
        r".\1\\overline{\2}",
    ),
)
_GLYPHS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "掳": "°", "º": "°", "，": ",", "：": ":", "∶": ":"}
    | {"√": r"\sqrt ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup "}
    | {"⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "∅": r"\emptyset ", "∈": r"\in ", "ℝ": r"\mathbb{R}"}
    | {"“": '"', "”": '"', "‘": "'", "’": "'", "∥": r"\parallel ", "⊥": r"\perp ", "≅": r"\cong ", "∽": r"\sim "}
    | {"✓": " ", "✔": " ", "✅": " ", "☑": " ", "🎉": " ", "\u200b": "", "\ufeff": "", "\u2062": "", "\ufe0f": ""}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_REPEATED = re.compile(r"[\d.]\\overline\s*\{\s*\d+\s*")
_COMPACTED = (
    (re.compile(r"\\[lcd]?dots[cbmio]?(?![a-zA-Z])|…"), "..."),
    (re.compile(r"<=|\\leq(?![a-zA-Z])"), r"\\le "),
    (re.compile(r">=|\\geq(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\angle(?![a-zA-Z])"), "∠"),
    (re.compile(r"\\triangle(?![a-zA-Z])"), "△"),
)
"""Signs of several spellings that mean the same wherever they stand."""
_HYPHEN = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
_PUNCTUATION = re.compile(r"[^\w\s+\-*/^=<>%°.()\[\]]|(?<!\d)\.|\.(?!\d)|_")


def brace_pairs(text: str) -> dict[int, int]:
    """The index at which each balanced `{` closes, escaped braces left out; linear in the length of any text."""
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
            if match[0].startswith(r"\overline") and _REPEATED.fullmatch(text, max(0, match.start() - 1), close):
                continue
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
    if _PLAIN_ALREADY.fullmatch(text):
        return text
    text = _RAISED_RUN.sub(lambda run: _script("^", run[0].translate(_RAISED)), text)
    text = _LOWERED_RUN.sub(lambda run: _script("_", run[0].translate(_LOWERED)), text)
    for pattern, spelling, _ in _BEFORE_UNWRAPPING:
        text = pattern.sub(spelling, text)
    text = _VULGAR_FRACTION.sub(lambda fraction: f" {fraction[0]}", text).translate(_GLYPHS)
    text = unicodedata.normalize("NFKC", text).translate(_GLYPHS)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = _DEGREE.sub("°", unwrap(text))
    for pattern, spelling in _RESPELLED:
        text = pattern.sub(spelling, text)
    return re.sub(r"(?<!\\)\\\s*$", "", text).lstrip(" ,;:").rstrip(" .,;:。、")


def _script(mark: str, run: str) -> str:
    return f"{mark}{run}" if len(run) == 1 else f"{mark}{{{run}}}"


def _bare(run: str) -> str:
    return re.sub(r"[\u0304\u0305]", "", run)


def compact(text: str) -> str:
    """`plain` without white space and without braces around one character: equal strings are the same writing.

    A space between two digits stays: `1 6` is not 16.
    """
    written = plain(text)
    for pattern, glyph in _COMPACTED:
        written = pattern.sub(glyph, written)
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d) | (?!\d)", "", written.strip()))


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
