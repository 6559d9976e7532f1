"""What counts as equal: every row of `grid.jsonl`, and every example of `docs/reference/answers.md`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mmhicra.core.errors import DataError
from mmhicra.data.gold import read_answer
from mmhicra.evaluate.scoring.records import Item, Response
from mmhicra.evaluate.scoring.robust import score_robust
from mmhicra.rewards.answers import extract
from mmhicra.rewards.verify import Query

GRID = Path(__file__).parent / "grid.jsonl"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "answers.md"


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in GRID.read_text("utf-8").splitlines()]


def verdicts(rows, verifier):
    """A verdict per row, from the gold as a data set would hold it to the answer as a reward would read it."""
    queries, refused = [], {}
    for at, row in enumerate(rows):
        choices = tuple(row.get("choices", ()))
        try:
            gold, kind = read_answer(row["gold"], choices, prefer_text=row["gold"] in choices)
        except DataError as refusal:
            refused[at] = f"refused: {refusal}"
            gold, kind = "refused", "text"
        extracted = extract(row["response"], kind, choices=choices).text
        queries.append(Query(extracted, gold, kind, choices, row.get("question", "")))
    found = verifier.verify_all(queries)
    return [refused.get(at, outcome.verdict) for at, outcome in enumerate(found)], found


def failures(rows, verifier):
    """The rows judged otherwise, one line each, by kind. A missing answer earns as little as a wrong one."""
    said, outcomes = verdicts(rows, verifier)
    return [
        f"{row['kind']}: gold {row['gold']!r}, response {row['response'][-90:]!r}, choices {row.get('choices')}: "
        f"{verdict} ({outcome.why}), expected {row['expected']}"
        for row, verdict, outcome in sorted(
            zip(rows, said, outcomes, strict=True), key=lambda judged: judged[0]["kind"]
        )
        if (verdict == "right") != (row["expected"] == "right")
    ]


@pytest.mark.slow
def test_every_row(rows, verifier):
    wrong = failures(rows, verifier)
    assert not wrong, "\n".join([f"{len(wrong)} of {len(rows)} rows:", *wrong])


def as_item(row, number):
    """The row as a question of a benchmark: its gold is read as a data set's would be, or kept if it is refused."""
    choices = tuple(row.get("choices", ()))
    try:
        gold, kind = read_answer(row["gold"], choices, prefer_text=row["gold"] in choices)
    except DataError:
        gold, kind = row["gold"], "math"
    return Item(str(number), row.get("question", ""), gold, kind, choices)


@pytest.mark.slow
def test_every_row_in_evaluation(rows, verifier):
    """Robust evaluation says what the reward says, but where a row expects that it guesses (`expected_eval`)."""
    pairs = [(as_item(row, n), Response(str(n), row["response"])) for n, row in enumerate(rows)]
    wrong = [
        f"{row['kind']}: gold {row['gold']!r}, response {row['response'][-90:]!r}, choices {row.get('choices')}: "
        f"{'right' if record.correct else 'wrong'} ({record.why})"
        for row, record in zip(rows, score_robust(pairs, "response", verifier), strict=True)
        if record.correct != (row.get("expected_eval", row["expected"]) == "right")
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(rows)} rows:", *wrong])
    assert sum("expected_eval" in row for row in rows) < len(rows) / 50


def test_every_kind_has_right_and_wrong_rows(rows):
    counts = Counter((row["kind"], row["expected"] == "right") for row in rows)
    kinds = {kind for kind, _ in counts}
    assert len(rows) >= 600
    assert {kind for kind in kinds if not counts[kind, True] or not counts[kind, False]} == {"hostile"}
    assert all(
        set(row) <= {"kind", "gold", "response", "question", "choices", "expected", "expected_eval"} for row in rows
    )


def examples_on_the_page():
    """Rows of the tables `| Gold | Equal | Not equal |`, their cells code spans."""
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]
        if len(cells) == 3 and len(cells[0]) == 1 and cells[1] + cells[2]:
            for answers, expected in zip(cells[1:], ("right", "wrong"), strict=True):
                for answer in answers:
                    yield {
                        "kind": "page",
                        "gold": cells[0][0],
                        "response": rf"\boxed{{{answer}}}",
                        "expected": expected,
                    }


def test_the_examples_of_the_page(verifier):
    examples = list(examples_on_the_page())
    assert len(examples) > 100
    assert failures(examples, verifier) == []


NUMBERS = ("5", "12", "0.5", r"\frac{3}{4}", r"2\sqrt{3}", "1,200", "-7")
MODIFIERS = (
    *(
        "million",
        "thousand",
        "hundred",
        "dozen",
        "tenths",
        "squared",
        "cubed",
        "factorial",
        "or 6",
        "and 6",
        "not",
        "no",
    ),
    *(
        "incorrect",
        "wrong",
        "false",
        "maybe",
        "perhaps 6",
        "unless 6",
        "except 6",
        "but 6",
        "rather than 6",
        "more than 6",
    ),
    *(
        "less than 6",
        "fewer",
        "more",
        "at most",
        "at least",
        "undefined",
        "instead of 6",
        "to 6",
        "-6",
        "plus 6",
        "times 6",
    ),
    *(
        "over 6",
        "mod 6",
        "x",
        "n",
        "% of 6",
        "万",
        "亿",
        "或6",
        "不对",
        "to the power of 6",
        "? 6",
        "= 6",
        "| 6",
        "halves",
    ),
)
AHEAD = (
    "not",
    "minus",
    "less than",
    "more than",
    "at least",
    "at most",
    "under",
    "over",
    "no",
    "never",
    "isn't",
    "不是",
    "<",
    "\\ne",
)


@pytest.mark.parametrize("number", NUMBERS)
def test_no_word_turns_another_answer_right(verifier, number):
    """Whatever follows or precedes a number and is no unit makes it another one, also where the question says it."""
    question = "Is it not wrong to say 6 million or a dozen, more or less, and false or incorrect at most?"
    spoilt = [f"{number} {word}" for word in MODIFIERS] + [rf"{number} \text{{ {word}}}" for word in MODIFIERS]
    spoilt += [f"{word} {number}" for word in AHEAD]
    kinds = ("number", "math")
    queries = [
        Query(answer, number, kind, (), asked) for answer in spoilt for kind in kinds for asked in ("", question)
    ]
    outcomes = verifier.verify_all(queries)
    assert [
        query.extracted for query, outcome in zip(queries, outcomes, strict=True) if outcome.verdict == "right"
    ] == []
