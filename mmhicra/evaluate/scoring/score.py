"""Scores stored responses: one record per sample, then the numbers that stand in a result file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mmhicra
from mmhicra.core.errors import DataError
from mmhicra.core.intervals import ConfidenceInterval, clustered_interval, wilson_interval
from mmhicra.evaluate.benchmarks.mathverse import TEXT_ONLY
from mmhicra.evaluate.benchmarks.registry import Benchmark, load_items, load_responses, pair
from mmhicra.evaluate.scoring.judging import AnswerJudge
from mmhicra.evaluate.scoring.records import FLAGS, SCORER_VERSION, Item, Mode, Response, SampleRecord, Stage
from mmhicra.evaluate.scoring.robust import score_robust
from mmhicra.evaluate.scoring.samples import sample_scores, vote_of
from mmhicra.rewards.workers import Verifier

TIME_LIMIT = 2.0
"""Processor seconds that algebra on one answer may take in robust mode."""


@dataclass(frozen=True)
class Scores:
    """The result of scoring one file: its records, and all that is said about them."""

    records: Sequence[SampleRecord]
    result: dict[str, Any]


def score_pairs(
    benchmark: Benchmark,
    pairs: Sequence[tuple[Item, Response]],
    mode: Mode,
    stage: Stage = "response",
    verifier: Verifier | None = None,
) -> list[SampleRecord]:
    """One record per pair, in order; the same from any thread or process.

    Args:
        benchmark: whose rules count.
        pairs: questions with their responses.
        mode: `official` rules, or `robust`: what a fair judge would say.
        stage: `response` reads the answer out of the response, `equality` takes the stored extraction.
        verifier: used in robust mode and left open if given, else one is opened for this call.
    """
    # Blanks around a response say nothing; lmms-eval takes them off, and its labels and ours must be the same.
    pairs = [(item, replace(response, text=response.text.strip())) for item, response in pairs]
    if mode == "official":
        records = [benchmark.score_official(item, response, stage) for item, response in pairs]
    elif verifier is None:
        with Verifier(time_limit=TIME_LIMIT) as own:
            records = score_robust(pairs, stage, own)
    else:
        records = score_robust(pairs, stage, verifier)
    if not any(response.sample for _, response in pairs):
        return records
    return [
        replace(record, sample=response.sample, vote=vote_of(item, record))
        for record, (item, response) in zip(records, pairs, strict=True)
    ]


def score_and_judge(
    benchmark: Benchmark,
    pairs: Sequence[tuple[Item, Response]],
    mode: Mode,
    stage: Stage = "response",
    verifier: Verifier | None = None,
    judge: AnswerJudge | None = None,
) -> Scores:
    """Score by rules, let the judge decide what they could not, and summarise. Arguments as in `score_pairs`.

    Raises:
        UserError: the judge cannot be reached.
    """
    records = score_pairs(benchmark, pairs, mode, stage, verifier)
    facts = None
    if judge is not None:
        records, facts = judge.decide(
            benchmark.name,
            pairs,
            records,
            mode,
            lambda some: score_pairs(benchmark, some, mode, "equality", verifier),
        )
    return Scores(records, summarise(benchmark, records, mode, stage) | {"judge": facts})


def score_file(
    benchmark: Benchmark,
    responses: str,
    questions: str | None,
    mode: Mode,
    stage: Stage,
    split: str | None = None,
    judge: AnswerJudge | None = None,
) -> Scores:
    """Score an output file.

    Args:
        benchmark: whose rules count.
        responses: the file.
        questions: file, folder or hub id; None takes those the file carries, else the card's hub id.
        mode: as in `score_pairs`.
        stage: as in `score_pairs`.
        split: of the questions, the card's if None.
        judge: decides what the rules could not.

    Raises:
        DataError: something cannot be read, or no stored extraction is there for `equality`.
    """
    answered, carried = load_responses(benchmark, responses)
    items = carried if carried and questions is None else load_items(benchmark, questions, split)
    if stage == "equality" and all(response.extraction is None for response in answered):
        raise DataError(f"{responses} has no {benchmark.extraction_field!r}: leave --stage equality out")
    scores = score_and_judge(benchmark, pair(items, answered, responses), mode, stage, judge=judge)
    missing = sorted({item.id for item in items} - {record.id for record in scores.records})
    scores.result["counts"]["missing"], scores.result["missing"] = len(missing), missing
    scores.result["inputs"] = {
        "responses": _file_facts(responses),
        "questions": questions or ("carried" if carried else "hub"),
    }
    return scores


def summarise(benchmark: Benchmark, records: Sequence[SampleRecord], mode: Mode, stage: Stage) -> dict[str, Any]:
    """All numbers about records: the headline, groups with intervals, counts, the official aggregates."""
    counted = headline_records(benchmark, records)
    groups: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for record in records for key in record.groups):
        values = sorted({value for record in records for value in record.groups.get(key, ())})
        groups[key] = {value: accuracy_cell([r for r in records if value in r.groups.get(key, ())]) for value in values}
    labelled = [record for record in records if record.label is not None]
    versions = sorted({v for record in counted for v in record.groups.get("version", ())})
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.card.metric,
        "mode": mode,
        "stage": stage,
        "integer_rule": getattr(benchmark, "integer_rule", None),
        "versions_in_score": versions or None,
        "score": accuracy_cell(counted),
        "samples": sample_scores(counted),
        "counts": {"samples": len(records)} | {flag: sum(getattr(r, flag) for r in records) for flag in FLAGS},
        "methods": _tally([record.method for record in records]),
        "labels": _against_labels(labelled) if labelled else None,
        "groups": groups,
        "official_scores": benchmark.official_scores(records),
        "scorer_version": SCORER_VERSION,
        "mmhicra": mmhicra.__version__,
        "scored": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def headline_records(benchmark: Benchmark, records: Sequence[SampleRecord]) -> Sequence[SampleRecord]:
    """The records that the headline is over: MathVerse leaves Text Only out unless there is nothing else."""
    if benchmark.name != "mathverse":
        return records
    return [record for record in records if record.groups["version"] != (TEXT_ONLY,)] or records


def accuracy_of(records: Sequence[SampleRecord]) -> ConfidenceInterval:
    """Accuracy with its interval: Wilson's, or a clustered one where several records belong to one problem."""
    clusters = [record.cluster for record in records]
    if len(set(clusters)) < len(records):
        return clustered_interval([float(record.correct) for record in records], clusters)
    return wilson_interval(sum(record.correct for record in records) / max(1, len(records)), len(records))


def accuracy_cell(records: Sequence[SampleRecord]) -> dict[str, float | int]:
    """Accuracy, interval and counts for a result file."""
    counts = {"correct": sum(record.correct for record in records), "total": len(records)}
    return accuracy_of(records).as_dict("accuracy") | counts


def _against_labels(labelled: Sequence[SampleRecord]) -> dict[str, float | int]:
    same = sum(record.correct == record.label for record in labelled)
    answered = [record for record in labelled if record.extracted is not None]
    theirs, ours = sum(bool(record.label) for record in labelled), sum(record.correct for record in labelled)
    return {
        "labelled": len(labelled),
        "agree": same,
        "agreement": same / len(labelled),
        "answered": len(answered),
        "agreement_where_answered": sum(r.correct == r.label for r in answered) / max(1, len(answered)),
        "their_score": theirs / len(labelled),
        "our_score": ours / len(labelled),
        "difference_points": 100 * (ours - theirs) / len(labelled),
    }


def _tally(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda count: -count[1]))


def _file_facts(path: str) -> dict[str, str]:
    file = Path(path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return {"name": file.name, "sha256": digest}
