"""Two result files over the same questions, compared by pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhicra.core.errors import DataError, brief, one_line
from mmhicra.core.intervals import ConfidenceInterval, clustered_change
from mmhicra.evaluate.results import sample_path


@dataclass(frozen=True)
class Comparison:
    """What pairing says about two results; shares lie between 0 and 1.

    Attributes:
        shared: responses to the same question (and of the same number, where there are several) in both, which all
            numbers are over.
        first: accuracy of the first result on them.
        second: of the second.
        difference: second minus first, its interval clustered by problem.
        only_first: questions that only the first got right.
        only_second: likewise.
        p: exact McNemar test, two-sided: that so uneven a split of the questions only one got right is chance.
        warnings: what the two results do not have in common.
    """

    shared: int
    first: float
    second: float
    difference: ConfidenceInterval
    only_first: int
    only_second: int
    p: float
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON, those of the interval among them."""
        fields: dict[str, Any] = {}
        for name, value in vars(self).items():
            fields |= self.difference.as_dict(name) if name == "difference" else {name: value}
        return fields


def compare_results(first: Path, second: Path) -> Comparison:
    """Compare two result files with the lines beside them.

    Raises:
        DataError: a file cannot be read, they are of different benchmarks, or share no question.
    """
    (one, lines_one), (two, lines_two) = _read(first), _read(second)
    if one.get("benchmark") != two.get("benchmark"):
        raise DataError(
            f"{first} is of {one.get('benchmark')}, {second} of {two.get('benchmark')}: compare two of one benchmark"
        )
    shared = [identity for identity in lines_one if identity in lines_two]
    if not shared:
        raise DataError(f"{first} and {second} share no question: nothing can be paired")
    pairs = [(bool(lines_one[i]["correct"]), bool(lines_two[i]["correct"])) for i in shared]
    clusters = [str(lines_one[i].get("cluster") or i[0]) for i in shared]
    return _compare(pairs, clusters, _warnings(one, two, len(lines_one), len(lines_two), len(shared)))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of a split of the discordant pairs: a binomial test against one half."""
    from scipy.stats import binomtest

    count = only_first + only_second
    return float(binomtest(only_first, count).pvalue) if count else 1.0


def _compare(pairs: Sequence[tuple[bool, bool]], clusters: Sequence[str], warnings: tuple[str, ...]) -> Comparison:
    count = len(pairs)
    changes = [int(after) - int(before) for before, after in pairs]
    only_first, only_second = changes.count(-1), changes.count(1)
    return Comparison(
        shared=count,
        first=sum(before for before, _ in pairs) / count,
        second=sum(after for _, after in pairs) / count,
        difference=clustered_change(changes, clusters),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        warnings=warnings,
    )


def _warnings(one: Mapping[str, Any], two: Mapping[str, Any], *counts: int) -> tuple[str, ...]:
    differing = [
        f"{name.replace('_', ' ')}: {one.get(name)} against {two.get(name)}"
        for name in ("mode", "stage", "integer_rule", "scorer_version", "versions_in_score")
        if one.get(name) != two.get(name)
    ]
    asked_one, asked_two = one.get("generation") or {}, two.get("generation") or {}
    for name in ("prompt", "limits", "decoding", "engine", "precision"):
        if asked_one and asked_two and asked_one.get(name) != asked_two.get(name):
            differing.append(f"{name}: {asked_one.get(name)} against {asked_two.get(name)}")
    judges = [(result.get("judge") or {}).get("model") for result in (one, two)]
    if judges[0] != judges[1]:
        differing.append(f"judge: {judges[0]} against {judges[1]}")
    if len(set(counts)) > 1:
        differing.append(f"questions: {counts[0]} against {counts[1]}, {counts[2]} in common")
    return tuple(differing)


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, int], dict[str, Any]]]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        with sample_path(path).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        if not isinstance(result, dict) or not all(isinstance(line, dict) for line in lines):
            raise ValueError("not JSON objects")
        for line in lines:
            if not isinstance(line["correct"], bool):
                raise ValueError(f"correct is {brief(line['correct'])}")
        for name in ("generation", "judge"):
            if not isinstance(result.get(name) or {}, dict):
                raise ValueError(f"{name} is {brief(result[name])}")
        return result, {(line["id"], line.get("sample", 0)): line for line in lines}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): give results of eval score") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is no result of eval score ({one_line(repr(error), 160)}): score the responses again"
        ) from None
