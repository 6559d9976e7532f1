"""A dry run of the reward: every gold answer is written as a response, and has to earn what a right answer earns."""

from __future__ import annotations

import statistics

from mmhicra.core.errors import UserError
from mmhicra.core.names import FormatStyle
from mmhicra.core.records import Completion, Problem, RewardRecord
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.doctor.problems import Progress, Reader, list_golds, smallest_share, too_many_refused
from mmhicra.rewards.reward import Rewarder

BATCH = 512
NONSENSE = "?"
NONSENSE_CHECKED = 64
"""Problems that are answered by nonsense as well: a reward that pays for it teaches nothing."""


def check_golds(reader: Reader, rewarder: Rewarder, progress: Progress | None = None) -> CheckResult:
    """Score the gold of every problem, and nonsense in its place for some."""
    check = CheckResult("golds", "Reward on the gold answers")
    assert reader.loaded is not None
    problems = [*reader.loaded.train, *reader.loaded.held_out]
    style = reader.config.reward.format_style
    records: list[RewardRecord] = []
    try:
        if problems:
            rewarder.try_custom(problems[0])  # one that fails on all would be tried again and again on each
        for start in range(0, len(problems), BATCH):
            some = problems[start : start + BATCH]
            records += rewarder.records([(p, response_with(p.answer, style)) for p in some])
            if progress:
                progress(start + len(some), len(problems))
        nonsense = rewarder.records([(p, response_with(NONSENSE, style)) for p in problems[:NONSENSE_CHECKED]])
    except UserError as refusal:
        check.blame("custom reward", str(refusal), Remedy("reward.custom", words="mend the function, or leave it out"))
        return check
    except Exception as error:
        if not reader.config.reward.custom:
            raise
        where = "; ".join(getattr(error, "__notes__", ())) or "in a custom reward"
        said = f"{type(error).__name__}: {error} ({where})"
        check.blame("custom reward", said, Remedy("reward.custom", words="mend the function, or leave it out"))
        return check
    _judge(check, reader, problems, records, nonsense)
    return check


def _judge(
    check: CheckResult,
    reader: Reader,
    problems: list[Problem],
    records: list[RewardRecord],
    nonsense: list[RewardRecord],
) -> None:
    totals = [record.total for record in records]
    failed = [(p, r) for p, r in zip(problems, records, strict=True) if r.parts["accuracy"] != 1.0]
    refused = reader.rows_of(list(reader.golds))
    check.facts = {
        "scored": len(records),
        "unusable": [{"row": row.where, "id": row.id, "why": row.reason} for row in refused],
        "without_reward": [{"id": p.id, "gold": p.answer, "why": r.why} for p, r in failed],
        "reward": {"lowest": min(totals), "mean": statistics.fmean(totals), "highest": max(totals)},
        "reward_of_nonsense": statistics.fmean(r.total for r in nonsense),
    }
    bad = len(failed) + len(refused)
    check.summary = (
        f"{len(records) - len(failed)} of {len(records) + len(refused)} golds score 1; written as a response they earn "
        f"{min(totals):g}{f' to {max(totals):g}' if min(totals) < max(totals) else ''}, nonsense "
        f"{check.facts['reward_of_nonsense']:g}"
    )
    if refused:
        check.grids.append(list_golds(reader))
        first = refused[0]
        if too_many_refused(reader):
            check.blame(
                "unusable gold",
                f"{len(refused)} golds cannot be used, the first at {first.where}: {first.reason}",
                Remedy(words=f"mend the answer in {first.where}" + (" and the others listed" if bad > 1 else "")),
                Remedy("data.max_refused_share", smallest_share(reader), words="trains without them"),
            )
        else:
            check.doubts.append(
                f"{len(refused)} rows are left out for their gold, the first at {first.where}: {first.reason}"
            )
    if reader.raw:
        where = f" for {', '.join(sorted(reader.raw))}" if reader.config.data.sources else ""
        check.notes.append(f"reward.accuracy_weight is 0{where}: no term of ours reads the golds, and none was refused")
    checked = reader.raw != set(reader.config.rewards())
    failed = [(p, r) for p, r in failed if p.dataset not in reader.raw]
    if failed:
        problem, record = failed[0]
        rows = [(p.source or p.id, r.why, p.answer) for p, r in failed]
        check.grids.append(Grid("golds that do not score 1", ("row", "why", "gold"), rows))
        check.blame(
            "gold without reward",
            f"{len(failed)} golds earn nothing in the format {reader.config.reward.format_style}, the first of problem "
            f"{problem.id}: {record.why}",
            Remedy("reward.format_style", words="a format the answers can be read from"),
        )
    _judge_nonsense(check, checked, totals, [record.total for record in nonsense])


def _judge_nonsense(check: CheckResult, checked: bool, totals: list[float], nonsense: list[float]) -> None:
    """Nonsense must earn less than the golds of the same problems."""
    paid = statistics.fmean(nonsense)
    if paid < statistics.fmean(totals[: len(nonsense)]):
        return
    if not checked and paid <= 0:
        check.doubts.append(
            "neither golds nor nonsense earn anything: custom rewards may read another format than ours"
        )
    else:
        check.blame(
            "reward without signal",
            f"a response that answers {NONSENSE!r} earns as much as the gold ({totals[0]:g})",
            Remedy("reward.accuracy_weight", 1.0),
        )


def response_with(answer: str, style: FormatStyle) -> Completion:
    r"""The shortest response with this answer that keeps to the format."""
    box, thought = rf"\boxed{{{answer}}}", "<think>\nI see it.\n</think>\n"
    texts = {"boxed": box, "think_boxed": thought + box, "think_answer": f"{thought}<answer>{answer}</answer>"}
    return Completion([0], [], "stop", texts[style])
