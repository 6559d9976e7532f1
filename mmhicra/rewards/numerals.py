"""Numbers in words, English and Chinese: `twenty-five`, `one hundred and five`, `two and a half`, `三百零五`.

Only words at the beginning of a text are read, and they become digits there: `five apples` is `5 apples`, which
`values` reads on. Scale words that follow digits (`2.5 million`, `3 dozen`, `7 hundredths`, `1.5万`) are `SCALES`.
"""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {name: n for n, name in enumerate(_ONES)} | {name: 10 * n for n, name in enumerate(_TENS, 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = "|".join(sorted([*_SMALL, *_LARGE], key=len, reverse=True))
_ENGLISH = re.compile(
    rf"(?P<number>(?:{'|'.join(_SMALL)})(?:(?:[\s-]|\sand\s)(?:{_WORD}))*)(?P<half>\sand\s(?:a|one)\shalf)?(?![a-z-])"
    r"|(?P<dozen>(?:a|one)\s(?P<scale>dozen|hundred|thousand|million|billion|half|third|quarter|fourth|fifth|tenth))(?![a-z-])"
    r"|(?P<alone>half)(?:\s(?:of|an?))?(?![a-z-])",
    re.IGNORECASE,
)
_CHINESE_DIGITS = {
    "零": 0,
    "〇": 0,
    "一": 1,
    "二": 2,
    "两": 2,
    "三": 3,
    "四": 4,
    "五": 5,
    "六": 6,
    "七": 7,
    "八": 8,
    "九": 9,
}
_CHINESE_TENS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_LARGE = {"万": 10**4, "亿": 10**8}
_CHINESE = re.compile("[零〇一二两三四五六七八九十百千万亿]+")
_CHINESE_PART = re.compile("([零〇一二两三四五六七八九十百千\\d]+)\\s*分之\\s*([零〇一二两三四五六七八九十百千\\d]+)")

_FRACTIONS = {
    **{"half": 2, "halve": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8},
    **{"ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000},
    **{"ten-thousandth": 10**4, "millionth": 10**6},
}
SCALES: dict[str, Fraction] = {
    **{name: Fraction(size) for name, size in _LARGE.items()},
    **{f"{name}s": Fraction(size) for name, size in _LARGE.items()},
    **{"ten": Fraction(10), "tens": Fraction(10)},
    **{"dozen": Fraction(12), "dozens": Fraction(12), "bn": Fraction(10**9)},
    **{"百": Fraction(100), "千": Fraction(1000), "万": Fraction(10**4), "百万": Fraction(10**6)},
    **{"千万": Fraction(10**7), "亿": Fraction(10**8), "万亿": Fraction(10**12)},
    **{name: Fraction(1, below) for name, below in _FRACTIONS.items()},
    **{f"{name}s": Fraction(1, below) for name, below in _FRACTIONS.items()},
}
"""What a word after a number multiplies it by."""

_SCALE = re.compile(
    rf"\s*(?:\b({'|'.join(sorted((s for s in SCALES if s.isascii()), key=len, reverse=True))})(?![A-Za-z-])"
    rf"|({'|'.join(sorted((s for s in SCALES if not s.isascii()), key=len, reverse=True))}))",
    re.IGNORECASE,
)
_POWER = re.compile(r"\s*\b(squared|cubed|factorial)$", re.IGNORECASE)


def in_digits(text: str) -> str:
    """`text` with number words at its beginning turned into digits."""
    first = text[:1].lower()
    if first in _FIRST_LETTERS and (match := _ENGLISH.match(text)):
        value = _english(match)
        return text if value is None else f"{value} {text[match.end() :].lstrip()}".rstrip()
    if part := _CHINESE_PART.match(text):
        below, above = (int(each) if each.isdecimal() else _chinese(each) for each in part.groups())
        return f"{above}/{below}{text[part.end() :]}" if below else text
    if first in _CHINESE_FIRST and (match := _CHINESE.match(text)):
        return f"{_chinese(match[0])}{text[match.end() :]}"
    return text


def scale_after(rest: str) -> tuple[Fraction, str]:
    """The product of the scale words at the beginning of `rest`, and what follows them."""
    product = Fraction(1)
    while match := _SCALE.match(rest):
        product *= SCALES[(match[1] or match[2]).lower()]
        rest = rest[match.end() :]
    return product, rest


def power_after(rest: str) -> str | None:
    """`squared`, `cubed` or `factorial` if that is all of `rest`."""
    match = _POWER.fullmatch(rest)
    return match[1].lower() if match else None


def _english(match: re.Match[str]) -> str | None:
    if match["alone"]:
        return "1/2"
    if match["dozen"]:
        return str(SCALES[match["scale"].lower()])
    total, group, last = 0, 0, 0
    for word in re.split(r"[\s-]+", match["number"].lower()):
        if word == "and":
            continue
        if (size := _LARGE.get(word)) == 100:
            group = max(group, 1) * 100
        elif size:
            total, group = total + max(group, 1) * size, 0
        else:
            small = _SMALL[word]
            if last and not (last >= 20 and last % 10 == 0 and small < 10) and last < 100:
                return None  # `twenty twelve`, `five six`
            group += small
        last = size or _SMALL[word]
    whole = total + group
    return f"{2 * whole + 1}/2" if match["half"] else str(whole)


def _chinese(text: str) -> int:
    total = section = digit = 0
    positional = all(character in _CHINESE_DIGITS for character in text)
    if positional and len(text) > 1:  # 二〇二四
        return int("".join(str(_CHINESE_DIGITS[character]) for character in text))
    for character in text:
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        elif character in _CHINESE_TENS:
            section += (digit or 1) * _CHINESE_TENS[character]
            digit = 0
        else:
            total, section, digit = (total + section + digit or 1) * _CHINESE_LARGE[character], 0, 0
    return total + section + digit


_FIRST_LETTERS = frozenset(name[0] for name in (*_SMALL, "a", "half"))
_CHINESE_FIRST = frozenset((*_CHINESE_DIGITS, "十", "百", "千"))
