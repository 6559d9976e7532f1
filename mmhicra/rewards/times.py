"""Times of day and dates, each equal only to itself: `9:45` is no ratio, and `14:60` is no time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.rewards.notation import plain
from mmhicra.rewards.numerals import in_digits


@dataclass(frozen=True)
class Clock:
    """A time of day: hours from 0 to 11, and the half of the day if it was said."""

    hour: int
    minute: int
    second: int = 0
    half: str = ""


@dataclass(frozen=True)
class Date:
    """A date; what was not said is None. `swapped` is the other reading of `7/4/2024`."""

    year: int | None
    month: int | None
    day: int | None
    swapped: bool = False


_HALF = r"(?:\s*(?P<half>[ap])\.?\s?m\.?)"
_CLOCKS = (  # pattern and an example
    (
        rf"(?P<hour>\d{{1,2}})\s*:\s*(?P<minute>[0-5]\d)(?:\s*:\s*(?P<second>[0-5]\d))?(?:{_HALF}|\s*o'clock|\s*hours)?",
        "7:30 a.m.",
    ),
    (rf"(?P<hour>\d{{1,2}})(?:\s*o'clock)?{_HALF}", "7 pm"),
    (r"(?P<hour>\d{1,2})\s*o'clock", "7 o'clock"),
    (
        rf"(?P<part>half|quarter|\d{{1,2}}(?: minutes?)?) (?P<side>past|after|to|before) (?P<hour>\d{{1,2}}){_HALF}?",
        "half past 7",
    ),
    (
        r"(?P<day>上午|早上|凌晨|中午|下午|晚上|傍晚)?\s*(?P<hour>\d{1,2})\s*[点时](?P<minute>半|一刻|三刻|整|[0-5]?\d)?\s*分?",
        "7点半",
    ),
)
_CLOCK = [re.compile(pattern, re.IGNORECASE) for pattern, _ in _CLOCKS]
_LOOKS_LIKE_A_RATIO = re.compile(r"\s*\d+\s*:\s*\d+\s*")
_SHAPE = re.compile(r"\d{1,2}\s*:\s*[0-5]\d(?:\s*:\s*[0-5]\d)?")
_CHINESE_MINUTES = {"半": 30, "一刻": 15, "三刻": 45, "整": 0, "": 0}
_BEFORE = re.compile(
    r"^(?:(?:the )?(?:time|answer|clock)\b[^\d]{0,30}?(?:is|shows|=)|(?:it is|it's|at|about))\s+", re.IGNORECASE
)

_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?(?:the )?"
_DATES = (
    (rf"{_WEEKDAY}{_MONTH}\s+(?:the )?{_DAY}(?:\s*,?\s*(?P<year>\d{{4}}))?", "July 4, 2024"),
    (rf"{_WEEKDAY}{_DAY}\s+(?:of )?{_MONTH}(?:\s*,?\s*(?P<year>\d{{4}}))?", "4 July 2024"),
    (rf"{_MONTH}\s*,?\s+(?:of )?(?P<year>\d{{4}})", "July 2024"),
    (r"(?P<year>\d{4})[-/.](?P<number>\d{1,2})[-/.](?P<day>\d{1,2})", "2024-07-04"),
    (r"(?P<number>\d{1,2})[-/.](?P<day>\d{1,2})[-/.](?P<year>\d{4})", "7/4/2024"),
    (r"(?:(?P<year>\d{4})\s*年\s*)?(?P<number>\d{1,2})\s*月\s*(?P<day>\d{1,2})\s*[日号]", "2024年7月4日"),
    (r"(?P<year>\d{4})\s*年\s*(?P<number>\d{1,2})\s*月", "2024年7月"),
)
_DATE = [re.compile(pattern, re.IGNORECASE) for pattern, _ in _DATES]
_DATE_AHEAD = re.compile(r"[A-Za-z]{3}|[年月]|\d[-/.]\d{1,2}[-/.]\d")


@lru_cache(maxsize=2048)
def read_clock(text: str) -> Clock | None:
    """The time of day that `text` is, and nothing else."""
    spelt = _BEFORE.sub("", plain(text)).strip()
    for candidate in dict.fromkeys((spelt, _words_in_digits(spelt))):
        for pattern in _CLOCK:
            if match := pattern.fullmatch(candidate):
                return _clock(match.groupdict())
    return None


def is_clock_shaped(text: str) -> bool:
    """Whether `text` might be a time of day: `10:10`, not `3:4` nor `14:60`."""
    match = _SHAPE.fullmatch(plain(text)) if ":" in text or "∶" in text or "：" in text else None
    return match is not None and int(match[0].partition(":")[0]) <= 24


def same_clock(gold: Clock, answer: Clock) -> bool:
    """The same time; the half of the day may be left out, but not be the other one."""
    same = (gold.hour, gold.minute, gold.second) == (answer.hour, answer.minute, answer.second)
    return same and (not gold.half or not answer.half or gold.half == answer.half)


def _clock(found: dict[str, str | None]) -> Clock | None:
    hour, minute = int(found["hour"] or 0), 0
    half = {"a": "am", "p": "pm"}.get((found.get("half") or "").lower(), "")
    if day := found.get("day"):
        half = "am" if day in ("上午", "早上", "凌晨") else "pm"
    if part := found.get("part"):
        minute = {"half": 30, "quarter": 15}.get(part.lower()) or int(part.split()[0])
        if (found["side"] or "").lower() in ("to", "before"):
            hour, minute = hour - 1, 60 - minute
    elif (said := found.get("minute")) is not None:
        minute = _CHINESE_MINUTES[said] if said in _CHINESE_MINUTES else int(said)
    if not 0 <= hour <= 24 or not 0 <= minute < 60 or (hour > 12 and half == "am"):
        return None
    if hour > 12 or hour == 0:
        half = half or ("am" if hour in (0, 24) else "pm")
    return Clock(hour % 12, minute, int(found.get("second") or 0), half)


def _words_in_digits(text: str) -> str:
    """`half past seven`, `quarter to eight`, `seven o'clock`."""
    head, past, tail = text.partition(" past ") if " past " in text else text.partition(" to ")
    if past:
        part = head.removeprefix("a ")
        return f"{part if part in ('half', 'quarter') else in_digits(part)}{past}{in_digits(tail)}"
    return in_digits(text)


@lru_cache(maxsize=2048)
def read_date(text: str) -> Date | None:
    """The date that `text` is, and nothing else: a day of a month, with or without its year, or a month of a year."""
    if not _DATE_AHEAD.search(text):
        return None
    spelt = re.sub(r"^(?:on|in) ", "", plain(text))
    for pattern in _DATE:
        if match := pattern.fullmatch(spelt):
            return _date(match.groupdict())
    return None


def same_date(gold: Date, answer: Date) -> bool:
    """The same date. A year may be added, but not be left out; `7/4/2024` is read either way."""
    turned = Date(answer.year, answer.day, answer.month)
    return any(
        (gold.month, gold.day) == (each.month, each.day) and gold.year in (None, each.year)
        for each in ([answer, turned] if answer.swapped or gold.swapped else [answer])
    )


def _date(found: dict[str, str | None]) -> Date | None:
    year, day = (int(found[name] or 0) or None if name in found else None for name in ("year", "day"))
    if name := found.get("month"):
        month = next(n for n, full in enumerate(_MONTHS, 1) if full.startswith(name.lower()[:3]))
    else:
        month = int(found.get("number") or 0)
    swapped = found.get("month") is None and "year" in found and year is not None and day is not None
    if month > 12 and day is not None and day <= 12 and swapped:
        month, day, swapped = day, month, False
    if not 1 <= month <= 12 or (day is not None and not 1 <= day <= 31):
        return None
    return Date(year, month, day, swapped)
