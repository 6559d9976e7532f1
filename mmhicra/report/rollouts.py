"""Rollout files -> what the page shows of them: all of them counted, whole groups of them sampled to a budget."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from mmhicra.report.audit import Audit
from mmhicra.report.folder import RunData, read_errors, read_rollouts
from mmhicra.report.gram_table import GramTable
from mmhicra.report.pictures import Pictures

BUDGET = 8_000_000
"""Bytes of all rollouts on the page."""

Progress = Callable[[str, int, int], None]
"""A function that is told (phase, done, total)."""


def read_all_rollouts(run: RunData, progress: Progress) -> dict[str, Any]:
    """Read every rollout file once, one at a time in memory.

    Groups are drawn at random, by step and always the same; what a step does not use of its share of the budget,
    later steps may.
    """
    files, errors = run.rollout_files(), read_errors(run)
    last = max([run.steps, *(step for step, _ in files)])
    audit, grams, pictures = Audit(), GramTable(last), Pictures(run)
    shown: list[dict[str, Any]] = []
    total, allowance, completions = 0, 0.0, 0
    for number, (step, path) in enumerate(files, start=1):
        records = read_rollouts(step, path, run.missing)
        groups = by_prompt(records)
        for record in records:
            audit.observe(record)
            grams.observe(record)
        total += len(groups)
        allowance += BUDGET / len(files)
        random.Random(step).shuffle(groups)
        chosen = []
        for group in groups:
            entry = group_entry(group, errors)
            size = len(json.dumps(entry))
            if size > allowance:
                break  # not the next that fits: short groups are not to be favoured
            allowance -= size
            chosen.append(entry)
            completions += len(group)
            pictures.add(group[0])
        shown += sorted(chosen, key=lambda entry: (not entry["kept"], entry["prompt"], entry["copy"]))
        progress("reading rollouts", number, len(files))
    if grams.unrecorded:
        run.missing.append(
            f"{grams.unrecorded} rollouts were written by a version that did not record grams and tokens: "
            "no Strategic Grams and no heat maps of them."
        )
    if pictures.absent:
        reference, why = next(iter(pictures.absent.items()))
        run.missing.append(f"{len(pictures.absent)} images are not shown; the first, {reference}: {why}.")
    if shown and not any(group["images"] for group in shown):
        run.missing.append("The problems have no images: text only.")
    return {
        "groups": shown,
        "groups_total": total,
        "completions_shown": completions,
        "audit": audit.result(),
        "grams": grams.result(),
        "pictures": pictures.data,
        "absent": pictures.absent,
    }


def by_prompt(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The records of a step as groups; each record is told the `copy` it is of.

    A problem that came twice in a step begins again at completion 0, and its second group is copy 1.
    """
    groups: list[list[dict[str, Any]]] = []
    copies: Counter[str] = Counter()
    for record in records:
        if not groups or groups[-1][0]["prompt"] != record["prompt"] or record["completion"] == 0:
            groups.append([])
            copies[record["prompt"]] += 1
        record["copy"] = copies[record["prompt"]] - 1
        groups[-1].append(record)
    return groups


def group_entry(group: list[dict[str, Any]], errors: dict[tuple[int, str, int], dict[str, Any]]) -> dict[str, Any]:
    """One group for the page: what its completions share once, then each of them."""
    first = group[0]
    return {
        "step": first["step"],
        "prompt": first["prompt"],
        "copy": first["copy"],
        "task": first["task"],
        "question": first["question"],
        "images": first["images"],
        "gold": (first.get("reward") or {}).get("gold"),
        "kept": first["kept"],
        "completions": [completion_entry(record, errors) for record in group],
    }


def completion_entry(record: dict[str, Any], errors: dict[tuple[int, str, int], dict[str, Any]]) -> dict[str, Any]:
    """One completion; old rollout files do not say where its tokens are, and it is shown in one piece."""
    reward, text = record.get("reward") or {}, record["response"]
    judged = errors.get((record["step"], record["prompt"], record["completion"]))
    engine, old = record.get("engine_logprobs"), record.get("old_logprobs")
    gap = [round(b - a, 5) for a, b in zip(engine, old, strict=True)] if engine and old else None
    return {
        "n": record["completion"],
        "text": record.get("decoded", text),
        "split": "token_spans" in record,
        # Token i begins where i - 1 ended: the ends alone say it, and a character of two tokens is the first's.
        "ends": [end for _, end in record.get("token_spans", [])],
        "planning": record["planning"],
        "grams": record.get("grams", []),
        "advantage": record["advantage"],
        "advantages": record.get("advantages"),
        "logprobs": engine,
        "gap": gap,
        "entropy": record.get("entropy"),
        "length": len(record["ids"]),
        "truncated": record["finish_reason"] == "length",
        "verdict": reward.get("verdict"),
        "why": reward.get("why"),
        "extracted": reward.get("extracted"),
        "method": reward.get("method"),
        "parts": reward.get("parts"),
        "total": reward.get("total"),
        "error": judged and {"kind": judged["kind"], "why": judged["why"]},
    }
