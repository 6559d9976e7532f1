"""avg@k, pass@k and maj@k against counting, and subsets against their strata."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.cli import main
from mmhicra.core.resources import evaluation_path
from mmhicra.evaluate.benchmarks.registry import make_benchmark
from mmhicra.evaluate.benchmarks.subsets import read_ids, stratify
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord
from mmhicra.evaluate.scoring.samples import majority, pass_at, sample_scores, vote_of
from mmhicra.evaluate.scoring.score import score_pairs


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(right, data):
    k = data.draw(st.integers(1, len(right)))
    draws = list(combinations(right, k))
    assert pass_at(k, len(right), sum(right)) == pytest.approx(sum(map(any, draws)) / len(draws))


def record(identity, correct, vote):
    return SampleRecord(identity, correct, vote, "boxed", vote, "1", "", vote=vote, cluster=identity)


def test_the_majority_decides_ties_are_shared_and_silence_has_no_vote():
    assert majority([record("1", True, "a"), record("1", True, "a"), record("1", False, "b")]) == 1
    assert majority([record("1", True, "a"), record("1", False, "b")]) == 0.5
    assert majority([record("1", False, None), record("1", False, None), record("1", True, "a")]) == 1
    assert majority([record("1", False, None)]) == 0


def test_votes_go_by_what_is_said_not_by_how(verifier):
    item = Item("1", "How many?", "7")
    said = [r"\boxed{7}", r"So \boxed{7.0}.", r"\boxed{8}", r"\boxed{\frac{14}{2}}"]
    pairs = [(item, Response("1", text, sample=number)) for number, text in enumerate(said)]
    records = score_pairs(make_benchmark("mathverse"), pairs, "robust", verifier=verifier)
    assert [r.vote for r in records] == ["number 7", "number 7", "number 8", "number 7"]
    scores = sample_scores(records)
    assert (scores["k"], scores["avg"]["accuracy"], scores["maj"]["accuracy"]) == (4, 0.75, 1.0)
    assert scores["pass"].keys() == {"1", "2", "4"}
    option = Item("2", "Which?", "B", "choice", ("3", "5"))
    letters = [SampleRecord("2", True, text, "boxed", text, "B", "") for text in ("B", "(B) 5", "5")]
    assert len({vote_of(option, letter) for letter in letters}) == 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=60), st.data())
def test_every_stratum_has_its_share_from_any_order(strata, data):
    items = [Item(str(n), "", "", groups={"one": (a,), "two": (b,)}) for n, (a, b) in enumerate(strata)]
    count = data.draw(st.integers(1, len(items)))
    drawn = stratify(items, ["one", "two"], count, seed=1)
    assert len(drawn) == count
    whole, chosen = Counter(strata), Counter((i.groups["one"][0], i.groups["two"][0]) for i in drawn)
    assert all(abs(chosen[s] - count * whole[s] / len(items)) < 1 for s in whole)
    again = stratify(data.draw(st.permutations(items)), ["one", "two"], count, seed=1)
    assert {item.id for item in again} == {item.id for item in drawn}


@pytest.mark.parametrize(
    ("name", "benchmark", "count"),
    [("mathvista_240", "mathvista", 240), ("mathverse_240", "mathverse", 240), ("mathvision_304", "mathvision", 304)],
)
def test_subsets_that_ship(name, benchmark, count):
    assert len(read_ids(name, benchmark)) == count
    assert json.loads(evaluation_path(f"subsets/{name}.json").read_text())["benchmark"] == benchmark


def test_a_subset_drawn_by_hand(tmp_path):
    rows = [
        {"id": str(n), "question": "?", "options": [], "answer": "1", "level": 1 + n % 2, "subject": "logic"}
        for n in range(10)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--benchmark", "mathvision", "--questions", str(tmp_path / "q.jsonl"), "--by", "level", "--count", "4"]
    assert main(["eval", "subset", *options, "--out", str(tmp_path / "s.json")]) == 0
    ids = read_ids(str(tmp_path / "s.json"), "mathvision")
    assert sorted(int(identity) % 2 for identity in ids) == [0, 0, 1, 1]
    (tmp_path / "plain.txt").write_text("3\n5\n")
    assert read_ids(str(tmp_path / "plain.txt"), "mathvision") == {"3", "5"}


def test_every_question_counts_with_as_many_responses_as_all_have():
    """Two questions, of three and of two responses: k is 2, and the third response is left out."""
    verdicts = {"1": [True, False, True], "2": [True, True]}
    records = [record(name, right, "a" if right else "b") for name, own in verdicts.items() for right in own]
    scores = sample_scores(records)
    assert scores["k"] == 2
    assert {name: scores[name]["accuracy"] for name in ("avg", "maj")} == {"avg": 0.75, "maj": 0.75}
    assert {k: cell["accuracy"] for k, cell in scores["pass"].items()} == {"1": 0.75, "2": 1.0}
    assert scores["avg"]["low"] < 0.75 < scores["avg"]["high"]
    assert sample_scores(records[:3]) is not None
    assert sample_scores(records[2:4]) is None, "one response to each"


@pytest.mark.parametrize(("k", "powers"), [(2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_pass_is_told_at_powers_of_two_and_at_k(k, powers):
    assert list(sample_scores([record("1", n == 0, "a") for n in range(k)])["pass"]) == [str(n) for n in powers]
