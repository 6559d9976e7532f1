"""Rollout files -> what the page shows of them: all of them counted, whole groups of them sampled to a budget.

A page that is written again while the run goes on (`--serve`) reads only the files of steps that are new.
"""

from __future__ import annotations

import bisect
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from mmhicra.core.rollout_files import StepFiles
from mmhicra.report.audit import Audit
from mmhicra.report.folder import RunData, read_errors, read_rollouts
from mmhicra.report.gram_table import GramTable
from mmhicra.report.pictures import Pictures

BUDGET = 8_000_000
"""Bytes of all rollouts on the page."""

Progress = Callable[[str, int, int], None]
"""A function that is told (phase, done, total)."""
Judged = dict[tuple[int, str, int], dict[str, Any]]
"""What `mmhicra errors` said, by step, prompt and completion."""


class RolloutPage:
    """What the rollout files of a run came to so far. Read step by step it is what a single reading would give."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.seen: dict[int, tuple[Any, ...]] = {}
        self.audit, self.grams, self.shown = Audit(), GramTable(), GroupSample()
        self.damage: list[str] = []
        self.groups = 0
        self.thumbnails: dict[str, str] = {}

    def update(self, run: RunData, progress: Progress) -> dict[str, Any]:
        """Read what is new, one step in memory at a time; returns everything, JSON-able.

        Older steps whose files `log.rollouts_keep` has removed stay counted. Where anything else has changed (a run
        that was resumed from an earlier step, or begun anew), all is read again.
        """
        files = run.rollout_files()
        there = {each.step: identity(each) for each in files}
        oldest = min(there, default=0)
        if any(there.get(step) != known for step, known in self.seen.items() if step >= oldest):
            self.forget()
        fresh = [each for each in files if each.step not in self.seen]
        for number, each in enumerate(fresh, start=1):
            self._read(each)
            self.seen[each.step] = there[each.step]
            progress("reading rollouts", number, len(fresh))
        return self._result(run)

    def _read(self, files: StepFiles) -> None:
        groups = by_prompt(read_rollouts(files, self.damage))
        for group in groups:
            for record in group:
                self.audit.observe(record)
                self.grams.observe(record)
        self.groups += len(groups)
        random.Random(files.step).shuffle(groups)
        for place, group in enumerate(groups):
            if not self.shown.offer(files.step, place, group):
                break

    def _result(self, run: RunData) -> dict[str, Any]:
        errors, pictures = read_errors(run), Pictures(run, self.thumbnails)
        shown = [with_errors(entry, errors) for entry in self.shown.entries()]
        for entry in shown:
            pictures.add(entry)
        self.thumbnails = pictures.data
        run.missing += self.damage
        gone = sorted(self.seen.keys() - {files.step for files in run.rollout_files()})
        if gone:
            run.missing.append(f"Steps {gone[0]} to {gone[-1]} were read before log.rollouts_keep removed their files.")
        if self.grams.unrecorded:
            run.missing.append(
                f"{self.grams.unrecorded} rollouts were written by a version that did not record grams and tokens: "
                "no Strategic Grams and no heat maps of them."
            )
        if pictures.absent:
            reference, why = next(iter(pictures.absent.items()))
            run.missing.append(f"{len(pictures.absent)} images are not shown; the first, {reference}: {why}.")
        if shown and not any(group["images"] for group in shown):
            run.missing.append("The problems have no images: text only.")
        return {
            "groups": shown,
            "groups_total": self.groups,
            "completions_shown": sum(len(group["completions"]) for group in shown),
            "audit": self.audit.result(),
            "grams": self.grams.result(max([run.steps, *self.seen])),
            "pictures": pictures.data,
            "absent": pictures.absent,
        }


class GroupSample:
    """The groups that the page shows: the first of every step in the order of a draw, then the second of every step,
    and so on until the next would exceed the budget.

    That is one order of all groups, however many steps there are yet; so groups that are left out once never come back,
    and need not be kept.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[tuple[int, float, int], int, dict[str, Any]]] = []
        self.size = 0
        self.end: tuple[int, float, int] | None = None
        """The first place that was left out."""

    def offer(self, step: int, place: int, group: list[dict[str, Any]]) -> bool:
        """Show the group that came at `place` in the draw of its step; returns whether there was room."""
        key = (place, random.Random(f"{step}/{place}").random(), step)
        if self.end is not None and key > self.end:
            return False
        entry = group_entry(group)
        size = len(json.dumps(entry))
        bisect.insort(self.kept, (key, size, entry), key=lambda kept: kept[0])
        self.size += size
        while self.size > BUDGET:
            self.end, size, _ = self.kept.pop()
            self.size -= size
        return self.end is None or key < self.end

    def entries(self) -> list[dict[str, Any]]:
        """In the order of steps, kept groups first."""
        entries = [entry for *_, entry in self.kept]
        return sorted(entries, key=lambda entry: (entry["step"], not entry["kept"], entry["prompt"], entry["copy"]))


def identity(files: StepFiles) -> tuple[Any, ...]:
    """What changes when a step's files are written again."""
    facts = [(path.name, path.stat()) for path in files.paths if path.exists()]
    return tuple((name, fact.st_mtime_ns, fact.st_size) for name, fact in facts)


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


def with_errors(entry: dict[str, Any], errors: Judged) -> dict[str, Any]:
    """The entry of a group with what `mmhicra errors` said of each completion."""
    completions = []
    for each in entry["completions"]:
        judged = errors.get((entry["step"], entry["prompt"], each["n"]))
        completions.append({**each, "error": judged and {"kind": judged["kind"], "why": judged["why"]}})
    return {**entry, "completions": completions}


def group_entry(group: list[dict[str, Any]]) -> dict[str, Any]:
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
        "completions": [completion_entry(record) for record in group],
    }


def completion_entry(record: dict[str, Any]) -> dict[str, Any]:
    """One completion; old rollout files do not say where its tokens are, and it is shown in one piece."""
    reward, text = record.get("reward") or {}, record["response"]
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
    }
