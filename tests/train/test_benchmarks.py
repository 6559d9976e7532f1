"""The metrics of a benchmark in the loop are those of its result files, under the names of the documentation."""

from types import SimpleNamespace

import pytest

from mmhicra.train.loop.benchmarks import metrics_of


def scores(number, samples):
    """Numbers that are all different."""
    shares = {name: number + place / 100 for place, name in enumerate(("accuracy", "low", "high", "one", "two", "maj"))}
    several = {
        "k": 2,
        "avg": {"accuracy": number + 0.09},
        "pass": {"1": {"accuracy": shares["one"]}, "2": {"accuracy": shares["two"]}},
        "maj": {"accuracy": shares["maj"]},
    }
    result = {
        "score": {name: shares[name] for name in ("accuracy", "low", "high")},
        "samples": several if samples else None,
        "counts": {"samples": 8, "empty": 2, "truncated": 4},
    }
    return SimpleNamespace(result=result)


def test_every_number_has_its_name():
    assert metrics_of("emma", {"robust": scores(0.1, False), "official": scores(0.2, True)}) == pytest.approx(
        {
            "eval/emma": 0.1,
            "eval/emma_low": 0.11,
            "eval/emma_high": 0.12,
            "eval/emma_official": 0.2,
            "eval/emma_official_low": 0.21,
            "eval/emma_official_high": 0.22,
            "eval/emma_official_pass_at_1": 0.23,
            "eval/emma_official_pass_at_2": 0.24,
            "eval/emma_official_maj_at_2": 0.25,
            "eval/emma_empty": 0.25,
            "eval/emma_truncated": 0.5,
        }
    )
