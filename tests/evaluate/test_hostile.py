"""Whatever a model writes is one record; docs/guides/evaluation.md says how soon."""

from __future__ import annotations

import time

import pytest

from mmhicra.evaluate.benchmarks.registry import make_benchmark
from mmhicra.evaluate.scoring.records import Item, Response
from mmhicra.evaluate.scoring.score import score_pairs

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
HANGS = 60
"""Processor seconds; the longest of these takes one, one that is quadratic in its length takes hours."""
HOSTILE = {
    "a megabyte of words": "the answer is not clear to me, " * (MEGABYTE // 31),
    "a megabyte of digits": "7" * MEGABYTE,
    "a megabyte of boxes": r"\boxed{5} " * (MEGABYTE // 10),
    "a megabyte of brackets": "The answer is " + "(" * MEGABYTE,
    "a megabyte of spaces": "The answer is" + " " * MEGABYTE + "5",
    "a megabyte of fractions": r"\boxed{" + r"\frac{1}{" * (MEGABYTE // 9),
    "nested boxes": r"\boxed{" * 5000 + "5" + "}" * 5000,
    "thinking never closed": "<think> it could be " + r"\boxed{5}",
    "an empty box": r"The answer: \boxed{}",
    "right to left": "‏الجواب هو \\boxed{خمسة}",
    "right to left, digits": "\\boxed{٥}",
    "null bytes": "\x00\\boxed{\x005\x00}\x00",
    "a lone surrogate": "\\boxed{\ud800}",
    "a tower of powers": r"\boxed{10^{10^{10}}}",
    "a tower of powers, bare": "The answer is 10^{10^{10}}.",
    "a large power": r"\boxed{9^{99999999}}",
    "factorials": r"\boxed{99999999!}",
    "Python": r"\boxed{__import__('os').system('true')}",
    "deep brackets": r"\boxed{" + "(" * 400 + "5" + ")" * 400 + "}",
    "nothing": "",
}
ITEMS = {
    "mathvista": [
        Item("1", "How many?", "5", "number", facts={"answer_type": "integer"}),
        Item("2", "How long?", "5.1", "number", facts={"answer_type": "float", "precision": 1.0}),
        Item("3", "Which?", "6", "choice", ("5", "6"), facts={"answer_type": "text"}),
        Item("4", "Which two?", "[1, 2]", "text", facts={"answer_type": "list"}),
    ],
    "mathverse": [Item("1", "How long?", "4.4 m"), Item("2", "Which?", "B", "choice", ("5", "6"))],
    "mathvision": [
        Item("1", "How many?", "7", facts={"answer": "7"}),
        Item("2", "Which?", "B", "choice", ("x+1", "x+2", "5", "7", "8"), facts={"answer": "B"}),
        Item("3", "Which formula?", r"x^2+\frac{1}{2}", facts={"answer": r"x^2+\frac{1}{2}"}),
    ],
}


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("mode", ["official", "robust"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_response_is_a_record(verifier, name, mode, text):
    benchmark = make_benchmark(name)
    warm = [(Item("0", "?", "x+1"), Response("0", r"\boxed{1+x}"))] * 2
    score_pairs(benchmark, warm, "robust", verifier=verifier)  # the workers have started
    for item in ITEMS[name]:
        start = time.process_time()
        (record,) = score_pairs(benchmark, [(item, Response(item.id, text))], mode, verifier=verifier)
        assert time.process_time() - start < HANGS
        assert record.id == item.id
        assert record.empty == (not text.strip())
        if text in (HOSTILE["thinking never closed"], HOSTILE["nothing"], HOSTILE["a tower of powers"]):
            right_by_chance = mode == "official" and record.nearest_choice
            assert right_by_chance or not record.correct
    assert HOSTILE["thinking never closed"] != text or record.truncated
