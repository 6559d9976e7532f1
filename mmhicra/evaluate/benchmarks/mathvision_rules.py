r"""MathVision's official rules: how an answer is read out of a response, and when it equals the gold.

They are strings and habits, and every habit decides labels, so all are kept: the whole response is an answer where
nothing better is found, `\boxed{\textbf{(D)}}` is no letter, `0.5` becomes `\frac{1}{2}`, equality is to two decimals.
The rules are those of https://github.com/mathllm/MATH-V (evaluation/), in our own words and without its `eval`.
"""

from __future__ import annotations

from functools import lru_cache

from mmhicra.evaluate.benchmarks.latex_number import latex_number

LETTERS = "ABCDE"
_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_BOX = "oxed{"

_DELETED_FROM_ANSWERS = (
    *(" ", r"\,"),
    ("∞", r"\infty"),
    (r"+\infty", r"\infty"),
    ("\\\\", "\\"),
    *("\n", r"\text", r"\mbox"),
    ("bmatrix", "pmatrix"),
    *(r"\left", r"\right", r"^{\circ}", r"^\circ", "{m}^3", "m^3", "{units}", "units", "{km}", "km"),
)
"""What is changed, in this order: deleted, or replaced by the second of a pair."""

_DELETED_AS_IN_MATH = (
    *("\n", r"\!"),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    *(r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", "$"),
)
"""The clean-up of the MATH data set's scorer, likewise in order."""


def extract_official(response: str) -> str:
    """`model_answer` as the official evaluation writes it, lower-cased and without spaces."""
    answer = _letter_or_all(response.strip())
    after_is = answer.rsplit("is ", 1)[-1].rstrip(".")
    if _is_float(after_is):
        answer = after_is
    boxes = answer.count(_BOX)
    if boxes == 0:
        answer = _after_flags(answer)
    elif boxes > 1:
        answer = "\\b" + _BOX + answer.rsplit(_BOX, 1)[-1]
    answer = clean_answer(answer)
    for bracketed in ("({})", "{{{}}}"):
        for letter in "abcde":
            answer = answer.replace(bracketed.format(letter), letter)
    return answer.rstrip(".").lstrip(":").strip()


@lru_cache(maxsize=16_384)
def is_equal(answer: str, gold: str) -> bool:
    """Whether two writings are the same string, the same tuple to two decimals, or the same number to two decimals."""
    answer, gold = answer.lower(), gold.lower()
    if not answer.replace(" ", "") or not gold.replace(" ", ""):
        return False
    if answer.strip() == gold.strip():
        return True
    answer, gold = _rounded_tuple(answer), _rounded_tuple(gold)
    if answer == gold:
        return True
    expected = latex_number(gold)
    stated = latex_number(answer) if expected is not None else None
    return expected is not None and stated is not None and round(expected, 2) == round(stated, 2)


def is_correct(answer: str, gold: str, options: tuple[str, ...]) -> bool:
    """Whether an answer equals the gold letter or number, or the text of the gold option."""
    value = options[ord(gold) - ord("A")] if options else ""
    return is_equal(gold, answer) or is_equal(value, answer)


def clean_answer(text: str) -> str:
    """What is in the box, else everything, from the last `=` on, cleaned of spaces, units and LaTeX dressing."""
    text = text.lower().replace("{}", "")
    start, end = text.find(_BOX), text.rfind("}")
    answer = text[start + len(_BOX) : end] if 0 <= start < end - len(_BOX) + 1 else text
    closing, opening = answer.find("}"), answer.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        answer = answer[:closing]
    answer = answer.rsplit("=", 1)[-1].rsplit(r"\approx", 1)[-1]
    return _clean_as_in_math(_replace_all(answer, _DELETED_FROM_ANSWERS))


def _letter_or_all(answer: str) -> str:
    for letter in LETTERS:
        ends = (f" {letter}.", f" ({letter}).")
        starts = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if answer.endswith(ends) or answer.startswith(starts):
            answer = letter
    return answer


def _after_flags(answer: str) -> str:
    for flag in _FLAGS:
        for spelling in (flag, flag.replace("the", "The")):
            before, found, after = answer.rpartition(spelling)
            answer = (after if found else before + after).strip()
            if found:
                answer = answer.split("\n")[0].split(". ")[0]
    return answer


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _replace_all(text: str, replacements: tuple[str | tuple[str, str], ...]) -> str:
    for each in replacements:
        old, new = (each, "") if isinstance(each, str) else each
        text = text.replace(old, new)
    return text


def _clean_as_in_math(text: str) -> str:
    text = _replace_all(text, _DELETED_AS_IN_MATH).split(r"\text{ ")[0]
    text = text.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    for sign in ("=", r"\approx"):
        if text.count(sign) == 1:
            text = text.split(sign)[-1]
    if "sqrt" in text:
        text = _brace_roots(text)
    text = text.replace(" ", "")
    if "sqrt" in text:  # only then: `\frac12` alone stays as it is, and is not a number
        text = _brace_fractions(text)
    return r"\frac{1}{2}" if text == "0.5" else _slash_to_fraction(text)


def _brace_roots(text: str) -> str:
    first, *others = text.split(r"\sqrt")
    braced = (f"{{{part[0]}}}{part[1:]}" if part and part[0] != "{" else part for part in others)
    return r"\sqrt".join([first, *braced])


def _brace_fractions(text: str) -> str:
    first, *others = text.split(r"\frac")
    braced: list[str] = []
    for part in others:
        if part.startswith("{"):
            braced.append(part)
            continue
        if len(part) < 2:
            return text
        above, below, rest = part[0], part[1], part[2:]
        braced.append(f"{{{above}}}{below}{rest}" if below == "{" else f"{{{above}}}{{{below}}}{rest}")
    return r"\frac".join([first, *braced])


def _slash_to_fraction(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 2:
        return text
    try:
        above, below = int(parts[0]), int(parts[1])
    except ValueError:
        return text
    return rf"\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


def _rounded_tuple(text: str) -> str:
    """`(1/2,3)` -> `(0.5,3)`; anything but a tuple or list of numbers, `a`, `-a` and infinities as it is."""
    parts = text[1:-1].split(",")
    if len(parts) < 2 or text[0] + text[-1] not in ("()", "[]"):
        return text
    rounded: list[str] = []
    for part in parts:
        if "infty" in part or part in ("a", "-a"):
            rounded.append(part)
            continue
        value = latex_number(part)
        if value is None:
            return text
        rounded.append(str(round(value, 2)))
    return text[0] + ",".join(rounded) + text[-1]
