"""Which evaluation the best checkpoint is chosen by."""

from mmhicra.config import EvalConfig
from mmhicra.train.loop.best import better, value_of

RECORD = {"eval/accuracy": 0.25, "eval/length": 90.0, "eval/mathvista": 0.5}


def test_without_benchmarks_it_is_held_out_accuracy_and_a_metric_may_be_named():
    assert value_of(EvalConfig(), RECORD) == ("eval/accuracy", 0.25)
    assert value_of(EvalConfig(best_by="eval/length"), RECORD) == ("eval/length", 90.0)


def test_only_more_is_better():
    first = better(None, 1, "eval/accuracy", 0.5)
    assert first == {"step": 1, "metric": "eval/accuracy", "value": 0.5}
    assert better(first, 2, "eval/accuracy", 0.4) is None
    assert better(first, 2, "eval/accuracy", 0.5) is None
    assert better(first, 2, "eval/accuracy", 0.6) == {"step": 2, "metric": "eval/accuracy", "value": 0.6}
