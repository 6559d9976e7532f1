"""What a rollout file says of tokens, read back from a real run."""

import json

import pytest
from short_runs import run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "recorded"
    run(folder, "train.steps=1", "eval.problems=0", "train.epochs=2")
    return [json.loads(line) for line in (folder / "rollouts/step_000001.jsonl").read_text().splitlines()]


def test_spans_and_numbers_are_there_for_every_token(records):
    for record in records:
        count = len(record["ids"])
        assert record["decoded"].startswith(record["response"])
        assert len(record["token_spans"]) == len(record["advantages"]) == len(record["engine_logprobs"]) == count
        joined = "".join(record["decoded"][start:end] for start, end in record["token_spans"])
        assert joined == record["decoded"]  # the tiny model writes ASCII: every character is of one token
        if record["kept"]:  # two epochs look back
            assert len(record["old_logprobs"]) == len(record["entropy"]) == count
        else:
            assert record["old_logprobs"] is None


def test_grams_and_planning_are_of_the_same_tokens(records):
    for record in records:
        marked = {token for start, end in record["planning"] for token in range(start, end)}
        covered = {token for _, _, start, end in record["grams"] for token in range(start, end)}
        assert marked <= covered
        assert bool(marked) == bool(covered)
