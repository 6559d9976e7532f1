"""What a fair judge would say: the reward's extractor and verifier, the same for all benchmarks.

Where the reward must not guess, evaluation may: an answer that is not declared is guessed from the last statement, and
the record says `fallback`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage
from mmhicra.rewards import algebra, verify
from mmhicra.rewards.answers import GUESSES, Extraction, extract, final_text
from mmhicra.rewards.asked import nouns_asked
from mmhicra.rewards.fallback_extraction import declared_number
from mmhicra.rewards.fallback_options import option_stated
from mmhicra.rewards.notation import LONGEST_ANSWER, compact, plain
from mmhicra.rewards.options import LETTERS, options_in, options_named, spell
from mmhicra.rewards.options import gold_options as gold_letters
from mmhicra.rewards.readers import understand
from mmhicra.rewards.times import read_date
from mmhicra.rewards.units import read_unit
from mmhicra.rewards.unworked import TOO_LARGE, is_too_large
from mmhicra.rewards.values import read_value
from mmhicra.rewards.verify import Outcome, Query
from mmhicra.rewards.workers import Verifier

_LONGEST_RESPONSE = 100_000
"""Characters of a response, its thinking left out, that are read; a longer one keeps its end, where answers stand."""
_NUMBER_TO_WORK_OUT = re.compile(r"\\(?:log|ln|sin|cos|tan|arc)|!|\\binom")
"""What an option may hold that is a number, but none that `read_value` reads."""
_MARKED_LETTER = re.compile(r"[(\[{ ]*([A-Z])[)\]}.: ]*")
_LAST_NUMBER = re.compile(r"([\d.,]*\d)(\D*)$")
_NOTHING_TO_READ = re.compile(r"(?:[^\w\\∞∅]|_)*")


def score_robust(pairs: Sequence[tuple[Item, Response]], stage: Stage, verifier: Verifier) -> list[SampleRecord]:
    """One record per pair; what takes algebra is decided by the verifier's processes, in one batch."""
    records: list[SampleRecord] = []
    hard: list[tuple[int, Query]] = []
    for item, response in pairs:
        extraction = read_answer(item, response, stage)
        record = blank_record(item, response, extraction)
        decided = decide(item, extraction)
        if isinstance(decided, Query):
            hard.append((len(records), decided))
            records.append(record)
        else:
            records.append(decided_record(record, decided, item, extraction))
    outcomes = verifier.verify_all([query for _, query in hard])
    for (at, _), outcome in zip(hard, outcomes, strict=True):
        records[at] = replace(
            records[at],
            correct=outcome.verdict == "right",
            why=outcome.why,
            gold_unusable=outcome.verdict == "gold-unusable",
        )
    return records


def read_answer(item: Item, response: Response, stage: Stage = "response") -> Extraction:
    """The answer of a response, or the extraction stored with it."""
    if stage == "equality":
        if response.extraction is None:
            return Extraction(None, "no stored extraction")
        return Extraction(response.extraction, "stored extraction")
    text = response.text
    if len(text) > _LONGEST_RESPONSE:
        text = "<think>" if (final := final_text(text)) is None else final[-_LONGEST_RESPONSE:]
    return extract(text, item.kind, loose=True, question=item.question, choices=options_of(item))


def blank_record(item: Item, response: Response, extraction: Extraction) -> SampleRecord:
    """A record without a verdict yet."""
    return SampleRecord(
        id=item.id,
        correct=False,
        extracted=extraction.text,
        method=extraction.method,
        normalised=None if extraction.text is None else plain(extraction.text[:LONGEST_ANSWER]),
        gold=item.answer,
        why="no answer found",
        empty=not response.text.strip(),
        truncated=response.truncated or extraction.method == "thinking never closed",
        fallback=extraction.method in GUESSES,
        groups=item.groups,
        cluster=item.cluster,
        label=response.label,
    )


def decided_record(record: SampleRecord, outcome: Outcome, item: Item, extraction: Extraction) -> SampleRecord:
    """`record` with a verdict; options also say whether several were named."""
    several = item.kind == "choice" and extraction.text is not None and len(named_options(extraction.text, item)) > 1
    return replace(
        record,
        correct=outcome.verdict == "right",
        why=outcome.why,
        ambiguous=several,
        gold_unusable=outcome.verdict == "gold-unusable",
    )


def decide(item: Item, extraction: Extraction) -> Outcome | Query:
    """The outcome where it takes no algebra, else the question for the verifier."""
    answer = extraction.text
    if answer is None or not compact(answer[: LONGEST_ANSWER + 1]):
        return Outcome("no-answer", "no answer found")
    if len(answer) > LONGEST_ANSWER:
        return Outcome("wrong", f"the answer is longer than {LONGEST_ANSWER} characters")
    if _same_writing(answer, item.answer) and item.kind != "choice":
        return Outcome("right", "the same writing")
    if is_too_large(answer):
        return Outcome("wrong", TOO_LARGE)
    if _NOTHING_TO_READ.fullmatch(plain(answer)) and item.kind != "text":
        return Outcome("wrong", "nothing that can be read")
    if item.kind == "choice":
        return _decide_choice(item, answer)
    query = Query(answer, item.answer, item.kind, (), item.question)
    if item.kind in ("number", "math") and _is_number(item) and not read_value(answer):
        return _decide_prose(query, boxed="boxed" in extraction.method)
    return query


def _is_number(item: Item) -> bool:
    """Whether the gold is one number, and neither a date nor a time of day."""
    return understand(item.question).number(item.answer) is not None and read_date(item.answer) is None


def _same_writing(answer: str, gold: str) -> bool:
    """Whether two answers differ in nothing but font and white space; `1 6` is not `16`."""
    joined = re.compile(r"(?<=\w) (?=\w)")
    if compact(answer) != compact(gold):
        return False
    return len(joined.findall(plain(answer))) == len(joined.findall(plain(gold)))


def named_options(answer: str, item: Item) -> frozenset[int]:
    """The options an answer names. A marked letter is a letter, also where options are themselves letters."""
    choices = options_of(item)
    named = options_named(answer, choices)
    if len(named) == 1:
        return named
    marked = _MARKED_LETTER.fullmatch(plain(answer))
    if marked and LETTERS.index(marked[1]) < len(choices):
        return frozenset({LETTERS.index(marked[1])})
    if named:
        return named
    stated = option_stated(answer, choices)
    return frozenset() if stated is None else frozenset({stated})


def gold_options(item: Item) -> frozenset[int]:
    """The right options; empty if the gold names none."""
    choices = options_of(item)
    if item.answer in choices:
        return frozenset({choices.index(item.answer)})
    return gold_letters(item.answer, choices)


def options_of(item: Item) -> tuple[str, ...]:
    """The options, read from the question where the benchmark has no column of them."""
    return item.choices or options_in(item.question)


def _decide_choice(item: Item, answer: str) -> Outcome | Query:
    gold = gold_options(item)
    if not gold:
        return Outcome("gold-unusable", "the gold names no option")
    named = named_options(answer, item)
    choices = options_of(item)
    if not named and read_value(answer) and not any(map(_NUMBER_TO_WORK_OUT.search, choices)):
        return Outcome("wrong", "names no option")
    if not named:
        letter = LETTERS[min(gold)]
        return Query(answer, letter, "choice", choices) if len(gold) == 1 else Outcome("wrong", "names no option")
    if named == gold:
        return Outcome("right", f"names {spell(named)}")
    return Outcome("wrong", f"names {spell(named)}, not {spell(gold)}")


def _decide_prose(query: Query, *, boxed: bool) -> Outcome | Query:
    """An answer that is no plain number where one is wanted: the number it states in words, else algebra.

    What is boxed is meant as it stands: after its number there may be a unit, and no other word.
    """
    answer = query.extracted or ""
    by_rules = verify.decide(query)
    if not algebra.is_prose(answer) or (by_rules is not None and by_rules.verdict == "right"):
        return query
    stated = declared_number(answer)
    if stated is None:
        return Outcome("wrong", "states no number, or several")
    last = _LAST_NUMBER.search(plain(answer))
    if boxed and last:
        unit = read_unit(last[2].replace("%", ""), nouns_asked(query.question))
        if unit is None or last[1].replace(",", "").strip(".") not in stated:
            return Outcome("wrong", "more than a number and a unit")
    return replace(query, extracted=stated)
