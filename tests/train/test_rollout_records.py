"""What a rollout file says of tokens, read back from a real run."""

import pytest
from rollout_lines import read_rollouts
from short_runs import metrics, run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "recorded"
    run(folder, "train.steps=1", "eval.problems=0", "train.epochs=2")
    return read_rollouts(folder)


def test_spans_and_numbers_are_there_for_every_token(records):
    for record in records:
        count = len(record["ids"])
        assert record["decoded"].startswith(record["response"])
        assert len(record["token_spans"]) == len(record["advantages"]) == len(record["engine_logprobs"]) == count
        joined = "".join(record["decoded"][start:end] for start, end in record["token_spans"])
        assert joined == record["decoded"]  # the tiny model writes ASCII: every character is of one token
        if record["kept"]:  # two epochs look back
            assert len(record["old_logprobs"]) == len(record["entropy"]) == count
            planning = {token for start, end in record["planning"] for token in range(start, end)}
            own, bonus = record["advantage"], 0.2 * abs(record["advantage"])
            wanted = [own + bonus * (token in planning) for token in range(count)]
            assert record["advantages"] == pytest.approx(wanted, abs=2e-5)
        else:
            assert record["old_logprobs"] is None


def test_grams_and_planning_are_of_the_same_tokens(records):
    for record in records:
        marked = {token for start, end in record["planning"] for token in range(start, end)}
        covered = {token for _, _, start, end in record["grams"] for token in range(start, end)}
        assert marked <= covered
        assert bool(marked) == bool(covered)


def test_an_on_policy_run_records_its_own_pass(finished_run):
    """The same tokens that the metrics are means of: trainer's log-probs against the engine's, and entropies."""
    for numbers in metrics(finished_run)[1:]:
        records = [record for record in read_rollouts(finished_run, numbers["step"]) if record["kept"]]
        entropy = [value for record in records for value in record["entropy"]]
        assert sum(entropy) / len(entropy) == pytest.approx(numbers["entropy/all"], abs=1e-5)
        pairs = [zip(record["old_logprobs"], record["engine_logprobs"], strict=True) for record in records]
        gaps = [abs(old - engine) for pair in pairs for old, engine in pair]
        assert len(gaps) == len(entropy)
        assert sum(gaps) / len(gaps) == pytest.approx(numbers["engine/logprob_gap"], abs=1e-5)
