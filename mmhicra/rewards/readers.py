r"""Compares a gold with an answer by the first reader that reads the gold, exactly, before any algebra.

Each reader knows one kind of answer: numbers, times of day, dates, numerals with a base, matrices, sets of real
numbers, option letters, lists and tuples, statements of geometry. Most decide alone: what they cannot read is wrong.
Where one leaves an answer to the others, algebra has the last word, unless the answer is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mmhicra.rewards.asked import asks_percent, asks_ratio, nouns_asked, order_asked, unit_asked
from mmhicra.rewards.bases import asks_base, read_numeral, same_numeral
from mmhicra.rewards.families import read_family, same_family
from mmhicra.rewards.figures import read_letters, read_statement
from mmhicra.rewards.intervals import is_certain, read_set, same_set
from mmhicra.rewards.matrices import Matrix, read_matrix
from mmhicra.rewards.notation import compact, plain, words
from mmhicra.rewards.parts import Parts, all_same, matching, read_parts, same_parts
from mmhicra.rewards.probes import agree_everywhere
from mmhicra.rewards.times import is_clock_shaped, read_clock, read_date, same_clock, same_date
from mmhicra.rewards.units import MONEY, UNKNOWN, Unit
from mmhicra.rewards.values import NO_NOUNS, Value, agree, read_number

Algebra = Callable[[str, str], bool]
"""Whether a gold and an answer are equal by algebra, which takes time and may hang."""

_DEEPEST = 4
_RATIO = re.compile(r"\s*:\s*|\s+to\s+|\s*比\s*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3}|[一-鿿]")
_LINES = re.compile(r"\n|\$\s*\$|[;；]")
_SHORT_WORDS = frozenset({"no", "No", "NO", "up", "Up", "on", "On", "ok", "OK", "NE", "NW", "SE", "SW"})
_ALTERNATIVE = re.compile(
    r"(.+?)\s*[(（]\s*(?:\bor(?:\s+(?:fill in|write|equivalently))?\b|或(?:填|者)?)[\s,:]*(.+?)\s*[)）]", re.DOTALL
)
_OFFERED = re.compile(r"\bor\b|或|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])")
"""What offers the coordinates of a point, or answers to several blanks, for choice."""
_MEMBER = re.compile(r"\\in\s*[\[(]")
_TOGETHER = re.compile(r"\band\b|且|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])")
_FUNCTION = re.compile(r"(?:(?P<name>[a-zA-Z]\s*(?:\^\s*\{?-1\}?)?)\s*\(\s*x\s*\)|y)\s*=\s*(?P<body>[^=<>,]+)")
_SHAPE_WORDS = re.compile(
    r"∠|\\angle|\bangle|\barc\b|\bsegment|\bline\b|triangle|△|quadrilateral|parallelogram", re.IGNORECASE
)


@dataclass(frozen=True)
class Question:
    """What a question says about its answer."""

    text: str = ""
    nouns: frozenset[str] = NO_NOUNS
    ratio: bool = False
    percent: bool = False
    base: bool = False
    order: bool | None = None
    unit: Unit = UNKNOWN

    def number(self, text: str) -> Value | None:
        """The number that an answer states; `2:15` is one only where a ratio is asked for or no clock shows it."""
        if ":" in text and not self.ratio and is_clock_shaped(text):
            return None
        value = read_number(text)
        if self.nouns and _WORD.search(text):
            return read_number(text, self.nouns) or value
        return value


@lru_cache(maxsize=2048)
def understand(question: str) -> Question:
    """What `question` says about its answer."""
    if not question:
        return Question()
    return Question(
        question,
        nouns_asked(question),
        asks_ratio(question),
        asks_percent(question),
        asks_base(question),
        order_asked(question),
        unit_asked(question),
    )


def compare(
    gold: str, answer: str, question: Question = Question(), algebra: Algebra | None = None, depth: int = 0
) -> bool | None:
    """Whether `answer` says what `gold` says; None if that takes algebra and there is none.

    Args:
        gold: the right answer.
        answer: the stated one.
        question: what was asked.
        algebra: compares expressions; without it what takes algebra stays undecided.
        depth: how many lists and matrices these two are parts of.
    """
    if depth > _DEEPEST:
        return False
    comparison = _Comparison(gold, answer, question, algebra, depth)
    for reader in READERS:
        verdict = reader(comparison)
        if verdict is not _UNREAD:
            return verdict
    return algebra(gold, answer) if algebra else None


@dataclass(frozen=True)
class _Comparison:
    gold: str
    answer: str
    question: Question
    algebra: Algebra | None
    depth: int

    def same(self, gold: str, answer: str) -> bool | None:
        """Compares two parts."""
        return compare(gold, answer, self.question, self.algebra, self.depth + 1)


_UNREAD: Any = object()


def _by_writing(pair: _Comparison) -> bool | None:
    written = compact(pair.gold)
    return True if written and written == compact(pair.answer) else _UNREAD


def _by_number(pair: _Comparison) -> bool | None:
    gold = pair.question.number(pair.gold)
    if gold is None:
        return _UNREAD
    answer = pair.question.number(pair.answer)
    if answer is not None:
        if gold.unit == UNKNOWN and _may_be_asked(pair.question.unit, answer.unit):
            gold = replace(gold, unit=pair.question.unit)
        return agree(gold, answer, percent_asked=pair.question.percent)
    if (numeral := read_numeral(pair.answer)) is not None:
        asked = pair.question.base and numeral.digits == plain(pair.gold)
        return asked or numeral.amount == gold.amount
    return False if is_clock_shaped(pair.answer) and not pair.question.ratio else _UNREAD


def _may_be_asked(asked: Unit, stated: Unit) -> bool:
    """Whether an answer's unit is to be taken for the one the question asks for: of its dimension, or other money."""
    kinds = {name for unit in (asked, stated) for name, _ in unit.dimension}
    return bool(asked.dimension) and (asked.dimension == stated.dimension or (len(kinds) > 1 and kinds <= MONEY))


def _by_ratio(pair: _Comparison) -> bool | None:
    """`3:4`, `3 to 4`, `1:2:3`; the parts may be multiplied by one number, but not exchanged."""
    gold = _RATIO.split(plain(pair.gold))
    if len(gold) < 2 or (is_clock_shaped(pair.gold) and not pair.question.ratio):
        return _UNREAD
    if is_clock_shaped(pair.answer) and not pair.question.ratio:
        return _UNREAD
    answer = _RATIO.split(plain(pair.answer))
    expected, stated = ([pair.question.number(part) for part in parts] for parts in (gold, answer))
    if None in expected or len(answer) < 2:
        return _UNREAD
    if None in stated or len(expected) != len(stated):
        return False
    right, said = ([value.amount for value in values if value is not None] for values in (expected, stated))
    if not all(right) or not all(said):
        return right == said
    return all(abs(a * said[0] - b * right[0]) <= 1e-9 * abs(a * said[0]) for a, b in zip(right, said, strict=True))


def _by_clock(pair: _Comparison) -> bool | None:
    gold = None if pair.question.ratio else read_clock(pair.gold)
    if gold is None:
        return _UNREAD
    answer = read_clock(pair.answer)
    return answer is not None and same_clock(gold, answer)


def _by_date(pair: _Comparison) -> bool | None:
    gold = read_date(pair.gold)
    if gold is None:
        return _UNREAD
    answer = read_date(pair.answer)
    return answer is not None and same_date(gold, answer)


def _by_numeral(pair: _Comparison) -> bool | None:
    gold = read_numeral(pair.gold)
    return _UNREAD if gold is None else same_numeral(gold, pair.answer)


def _by_matrix(pair: _Comparison) -> bool | None:
    gold = read_matrix(pair.gold)
    if gold is None:
        return _UNREAD
    answer = read_matrix(pair.answer)
    if gold.kind == "system":
        return _same_system(gold, pair, answer)
    if answer is None:
        parts = read_parts(pair.answer)
        flat = gold.kind == "vector" or all(len(row) == 1 for row in gold.rows)
        if parts is None or parts.shape != "tuple" or not flat:
            return pair.algebra(pair.gold, pair.answer) if pair.algebra and gold.kind == "determinant" else False
        answer = Matrix(tuple((item,) for item in parts.items), "vector")
    if (gold.kind == "determinant") != (answer.kind == "determinant") or answer.kind == "system":
        return False
    if [len(row) for row in gold.rows] != [len(row) for row in answer.rows] and gold.kind != "vector" != answer.kind:
        return False
    if "vector" in (gold.kind, answer.kind):
        return _all_same(
            [cell for row in gold.rows for cell in row], [cell for row in answer.rows for cell in row], pair
        )
    return _all_same([c for row in gold.rows for c in row], [c for row in answer.rows for c in row], pair)


def _same_system(gold: Matrix, pair: _Comparison, answer: Matrix | None) -> bool | None:
    """`cases`: equations are a list with labels, pieces of a function a list of pairs in any order."""
    if all(len(row) == 1 for row in gold.rows):
        expected = read_parts(", ".join(row[0] for row in gold.rows))
        stated = read_parts(", ".join(cell for row in answer.rows for cell in row) if answer else pair.answer)
        if expected is None or stated is None:
            return False
        return same_parts(expected, stated, pair.same, pair.question.order)
    if answer is None or len(answer.rows) != len(gold.rows):
        return False
    return matching(gold.rows, answer.rows, lambda row, other: _all_same(row, other, pair))


def _all_same(gold: Any, answer: Any, pair: _Comparison) -> bool | None:
    if len(gold) != len(answer):
        return False
    return all_same(pair.same(one, other) for one, other in zip(gold, answer, strict=True))


def _by_set(pair: _Comparison) -> bool | None:
    gold = read_set(pair.gold)
    if gold is None:
        return _UNREAD
    answer = read_set(pair.answer)
    if answer is None and len(gold.intervals) > 1 and _TOGETHER.search(plain(pair.answer)):
        return False  # no number is below 0 and above 4
    if answer is None or not (is_certain(gold) or is_certain(answer)):
        return _UNREAD
    return same_set(gold, answer, pair.same)


def _by_family(pair: _Comparison) -> bool | None:
    gold = read_family(pair.gold)
    if gold is None:
        return _UNREAD
    answer = read_family(pair.answer)
    return answer is not None and same_family(gold, answer, pair.same)


def _by_letters(pair: _Comparison) -> bool | None:
    gold = read_letters(pair.gold)
    if gold is None:
        return _UNREAD
    letters, apart = gold
    answer = read_letters(pair.answer)
    if answer is None:
        return False if apart else _UNREAD
    shaped = not apart and not answer[1] and (len(letters) > 2 or _SHAPE_WORDS.search(pair.question.text))
    in_order = plain(pair.gold) == "".join(sorted(letters)) and plain(pair.answer) != plain(pair.answer)[::-1]
    if shaped and not in_order:
        return _UNREAD
    if pair.question.order:
        return re.findall("[A-J]", plain(pair.gold)) == re.findall("[A-J]", plain(pair.answer))
    return letters == answer[0]


def _by_alternative(pair: _Comparison) -> bool | None:
    """A gold that gives another form of itself: `35/4 (or fill in 8.75)`."""
    forms = _ALTERNATIVE.fullmatch(pair.gold.strip())
    if forms is None:
        return _UNREAD
    verdicts = [pair.same(form, pair.answer) for form in forms.groups()]
    return True if True in verdicts else None if None in verdicts else False


def _by_short_word(pair: _Comparison) -> bool | None:
    """`No` is no product of n and o, nor `SW` one of S and W."""
    if plain(pair.gold) not in _SHORT_WORDS:
        return _UNREAD
    return words(pair.gold) == words(pair.answer)


def _by_lines(pair: _Comparison) -> bool | None:
    """A gold with one part a line, before a number is read that all of them would make together."""
    gold = read_parts(pair.gold) if _LINES.search(pair.gold) else None
    return _by_parts(pair) if gold is not None and gold.shape == "lines" and _by_matrix(pair) is _UNREAD else _UNREAD


def _by_parts(pair: _Comparison) -> bool | None:
    gold = read_parts(pair.gold)
    if gold is None:
        return _UNREAD
    if gold.shape in ("list", "set") and _MEMBER.search(plain(pair.answer)):
        return False  # of an interval, not of a list in brackets
    in_order = gold.shape == "tuple" or (gold.shape == "lines" and pair.question.order is not False)
    if in_order and _OFFERED.search(plain(pair.answer)):
        return False
    for every_comma in (False, True):
        answer = _coordinates(pair.answer) or read_parts(pair.answer, every_comma)
        if answer is not None and len(answer.items) == len(gold.items):
            return same_parts(gold, answer, pair.same, pair.question.order)
    if answer is None and gold.shape in ("tuple", "set"):
        return _UNREAD
    return False


def _coordinates(text: str) -> Parts | None:
    """The parts of a vector, a column or a system of equations."""
    matrix = read_matrix(text)
    if matrix is None or matrix.kind == "determinant" or any(len(row) > 1 for row in matrix.rows):
        return None
    cells = tuple(row[0] for row in matrix.rows)
    if matrix.kind == "system":
        return read_parts(", ".join(cells))
    return Parts(cells, ("",) * len(cells), "tuple") if len(cells) > 1 else None


def _by_function(pair: _Comparison) -> bool | None:
    """`f(x) = x^2` is `y = x^2`."""
    gold, answer = (_FUNCTION.fullmatch(plain(text)) for text in (pair.gold, pair.answer))
    if gold is None or answer is None or bool(gold["name"]) == bool(answer["name"]):
        return _UNREAD
    return pair.same(gold["body"], answer["body"])


def _by_statement(pair: _Comparison) -> bool | None:
    gold = read_statement(pair.gold)
    answer = None if gold is None else read_statement(pair.answer)
    if gold is not None and answer is not None:
        return gold == answer
    sides, stated = (compact(each).split("=") for each in (pair.gold, pair.answer))
    return True if len(sides) == 2 and sides == stated[::-1] else _UNREAD


def _one_for_many(pair: _Comparison) -> bool | None:
    """Several answers where the gold is one."""
    parts: Parts | None = read_parts(pair.answer)
    if parts is None or pair.question.number(pair.gold) is None:
        return _UNREAD
    return pair.same(pair.gold, parts.items[0]) if parts.shape == "set" and len(parts.items) == 1 else False


def _by_probes(pair: _Comparison) -> bool | None:
    return True if agree_everywhere(pair.gold, pair.answer) else _UNREAD


READERS: tuple[Callable[[_Comparison], bool | None], ...] = (
    _by_writing,
    _by_alternative,
    _by_short_word,
    _by_lines,
    _by_clock,
    _by_date,
    _by_number,
    _by_ratio,
    _by_numeral,
    _by_matrix,
    _by_set,
    _by_family,
    _by_letters,
    _by_parts,
    _by_statement,
    _by_function,
    _one_for_many,
    _by_probes,
)
