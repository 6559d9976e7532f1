"""What a question says about its answer: which nouns it counts, whether it asks for a ratio, the order of parts."""

from __future__ import annotations

import re
from functools import lru_cache

from mmhicra.rewards.units import UNKNOWN, Unit, read_unit

_ASKED = re.compile(
    r"\b(?:how (?:many|much|long|far|tall|old)|what (?:number|fraction|amount) of|number of|amount of|total of"
    r"|answer in|in terms of)((?:\s+[a-z][a-z-]*){1,4})",
)
_UNIT_ASKED = re.compile(
    r"\bin ((?:square |cubic )?[A-Za-z]{1,12})(?=\s*[?.,;)]|\s*$|\s+(?:is|are|does|do|did|was|were|will|to)\b)"
    r"|\bunits?\s*:\s*([A-Za-z]{1,12})|\bhow many ([a-z]{3,12})\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z][a-z'’-]{2,}")
_END_OF_PHRASE = frozenset(
    """
    is are was were be do does did can could will would should has have had there in on at of to for if when with from
    by that which who this these those they he she it we you i the a an and or not than as
    """.split()  # noqa: SIM905 - a table of words
)
ALTERING = frozenset(
    """
    not nor none neither never without except but unless instead rather maybe perhaps possibly probably likely wrong
    incorrect false untrue true right correct invalid undefined impossible unknown uncertain either other others else
    otherwise
    isn't aren't isnt about almost nearly roughly approximately around exactly only just least most

    more less fewer greater larger smaller bigger than plus minus times over divided multiplied multiply divide add
    subtract squared cubed square cube root half halves twice double triple thrice factorial sum difference product
    quotient ratio power powers exponent opposite inverse reciprocal negative positive percent percentage percents

    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety zero hundred thousand million billion trillion dozen
    tens hundreds thousands millions billions trillions dozens score gross pair pairs couple third thirds fourth fourths
    quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth
    hundredths thousandth thousandths millionth millionths
    """.split()  # noqa: SIM905 - a table of words
)
"""Doubt and negation; comparisons and operations; numbers: after a number they make it another answer, or none."""
_NO_NOUNS = ALTERING | frozenset(
    """
    the and for are was were has have had does did can could will would should shall may might must that which who whom
    whose this these those they them their there then what when where why how with from into onto upon your you our her
    his him its all any some many much few both each every between within among before after above below under
    """.split()  # noqa: SIM905 - a table of words
)
"""Also words without a meaning of their own."""

_CHINESE_NO_NOUN = re.compile("[不非错误没无或和与约可能大小多少是的万亿千百十半倍一二三四五六七八九零两]")
_PERCENT = re.compile(r"\bpercent|\bper cent\b|%|百分", re.IGNORECASE)
_RATIO = re.compile(r"\bratios?\b|\bproportion|\bodds\b|\bscale\b|比(?!较|赛)", re.IGNORECASE)
_ORDERS = (  # what fixes the order of the parts of an answer
    r"\brespectively\b",
    r"\bin (?:that |this |the )?(?:order|sequence)\b",
    r"\border(?:ed)? (?:from|by|pair|of)",
    r"\b(?:ascending|descending|increasing|decreasing) order\b",
    r"\bfrom (?:left|smallest|largest|least|greatest|lowest|highest|shortest|longest)\b",
    r"\barrange\b|\bsort\b|\brank\b|\border the\b",
    r"分别|依次|顺序|从小到大|从大到小|排列",
)
_FREEDOMS = (  # what leaves it free
    r"\broots?\b|\bsolutions?\b|\bsolve\b|\bzero(?:e?s)\b|\bin any order\b",
    r"\ball (?:possible |real |the )?(?:values?|numbers?|integers?|pairs)\b",
    r"\bfactors\b|\bdivisors\b|\bset of\b",
    r"所有|全部|方程的(?:解|根)|哪些",
)
_ORDERED, _UNORDERED = (re.compile("|".join(rules), re.IGNORECASE) for rules in (_ORDERS, _FREEDOMS))
_LONGEST = 4000


@lru_cache(maxsize=2048)
def nouns_asked(question: str) -> frozenset[str]:
    """Words of a question that may follow its answer as a unit, in lower case; Chinese ones two characters long.

    Whatever follows "how many" counts (`how many more dozen`); of the rest of the question only words that name no
    number, operation, comparison, doubt or negation, and no adverb or participle.
    """
    text = question[-_LONGEST:].lower()
    asked: set[str] = set()
    for phrase in _ASKED.finditer(text):
        for word in phrase[1].split():
            if word in _END_OF_PHRASE:
                break
            asked.add(word)
    plain_words = (word.strip("'’-") for word in _WORD.findall(text))
    asked |= {w for w in plain_words if w not in _NO_NOUNS and not w.endswith(("ly", "ing", "ed", "n't"))}
    chinese = re.findall(r"[一-鿿]+", text)
    runs = {run[i : i + size] for run in chinese for size in (2, 3) for i in range(len(run) - size + 1)}
    return frozenset(asked | {run for run in runs if not _CHINESE_NO_NOUN.search(run)})


@lru_cache(maxsize=2048)
def unit_asked(question: str) -> Unit:
    """The unit that the answer is to have (`in dollars`, `how many minutes`); `UNKNOWN` if none or several are named.

    Only units of a single dimension: what is said of lengths in cm says nothing about an area.
    """
    said = (match[1] or match[2] or match[3] for match in _UNIT_ASKED.finditer(question[-_LONGEST:]))
    found = {unit for text in said if (unit := read_unit(f" {text}")) is not None and len(unit.dimension) == 1}
    measures = {unit for unit in found if unit.dimension[0][0] != "count" and unit.dimension[0][0][0] != "#"}
    return next(iter(measures)) if len(measures) == 1 else UNKNOWN


def asks_ratio(question: str) -> bool:
    """Whether `3:4` in the answer is a ratio for certain."""
    return bool(_RATIO.search(question[-_LONGEST:]))


def order_asked(question: str) -> bool | None:
    """True where a question fixes the order of the parts of its answer, False where it leaves it free, else None."""
    tail = question[-_LONGEST:]
    if _ORDERED.search(tail):
        return True
    return False if _UNORDERED.search(tail) else None


def asks_percent(question: str) -> bool:
    """Whether the answer is a percentage."""
    return bool(_PERCENT.search(question[-_LONGEST:]))
