"""What the reward would pay: for golds, for golds that are spoilt in one place, and for the rollouts of a run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from mmhicra.config import RunConfig
from mmhicra.core.errors import DataError, RunFolderError
from mmhicra.core.records import Completion, Problem, RewardRecord
from mmhicra.core.rollout_files import require_rollouts
from mmhicra.data.dataset import load_problems
from mmhicra.doctor.golds import response_with
from mmhicra.report.folder import read_rollouts
from mmhicra.rewards.boxes import read_boxes
from mmhicra.rewards.by_source import make_rewarder
from mmhicra.rewards.golds import gold_problem
from mmhicra.rewards.options import LETTERS
from mmhicra.rewards.reward import Rewarder

GOLD, ROLLOUTS = "gold", "rollouts"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Surprise:
    """A gold that earns less than the same gold spoilt."""

    problem: str
    spoilt: str
    text: str
    gold_earns: float
    spoilt_earns: float


@dataclass
class Trial:
    """What was paid.

    Attributes:
        rows: by what was answered (`gold`, `number changed`, ..., `rollouts`), the records.
        surprises: golds that earn less than a spoilt one.
        equal: by kind of spoiling, how many earn just as much as the gold.
        refused: rows that the reward cannot use, with the reason.
        unknown: rollouts whose problem is not in the data.
        stored: total rewards that the run had given its rollouts, in their order.
    """

    rows: dict[str, list[RewardRecord]] = field(default_factory=dict)
    surprises: list[Surprise] = field(default_factory=list)
    equal: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    unknown: int = 0
    stored: list[float] = field(default_factory=list)

    def means(self, what: str) -> dict[str, float]:
        """The mean of each term over the records of a row, and of the whole reward as `total`."""
        records = self.rows[what]
        names = dict.fromkeys(name for record in records for name in record.parts)
        means = {name: fmean(record.parts.get(name, 0.0) for record in records) for name in names}
        return means | {"total": fmean(record.total for record in records)}


def try_reward(config: RunConfig, count: int, rollouts: Path | None = None) -> Trial:
    """Score golds, spoilt golds and stored rollouts with every term of a configuration. No model is loaded.

    Args:
        config: a checked configuration.
        count: problems of which golds are tried; the first of the data.
        rollouts: a run folder whose rollouts are scored again.

    Raises:
        UserError: data, run folder or a term cannot be used, or a function or a judge fails.
    """
    with ExitStack() as stack:
        rewards = config.rewards()
        rewarder = stack.enter_context(make_rewarder(config.reward, rewards, config.rollout.max_new_tokens))
        terms = [term for reward in rewards.values() for term in reward.terms]
        if any(term.coordinates != term.gold_coordinates for term in terms):
            rewarder.measure_by(measuring(config))
        raw = {name for name, reward in rewards.items() if not reward.reads_gold}

        def unfit(problem: Problem) -> str | None:
            return None if problem.dataset in raw else gold_problem(problem, rewarder.verifier)

        loaded = load_problems(config.data, config.seed, [unfit, rewarder.gold_fault], raw=raw)
        problems = [*loaded.train, *loaded.held_out]
        if not problems:
            raise DataError(f"{config.data.title} has no problem that the reward can use")
        trial = Trial(refused=[f"{row.where}: {row.reason}" for row in loaded.refused])
        _score_golds(trial, rewarder, config, problems[:count])
        if rollouts is not None:
            _score_rollouts(trial, rewarder, problems, rollouts)
    return trial


def measuring(config: RunConfig) -> Callable[[Problem], Sequence]:
    """What tells the sizes of images as the configured model sees them; it loads the processor, and no weights."""
    from mmhicra.vlm.loading import load_processor
    from mmhicra.vlm.processing import PromptBuilder

    loaded = load_processor(config.model)
    prompts = PromptBuilder(loaded.processor, loaded.family, loaded.config, config.data)
    return lambda problem: prompts.measure(problem).images


def spoil(problem: Problem) -> Iterator[tuple[str, str]]:
    """Wrong answers near a gold: what was done to it, and the answer; an empty one is an empty response."""
    gold = problem.answer
    boxes = read_boxes(gold)
    if boxes:
        moved = [[right, top, 2 * right - left, bottom] for left, top, right, bottom in boxes]
        yield "box moved", json.dumps([{"bbox_2d": box} for box in moved])
    elif problem.kind == "choice":
        letters = LETTERS[: max(2, len(problem.choices))]
        letter = gold.strip("() ").upper()
        if len(letter) == 1 and letter in letters:
            yield "letter changed", letters[(letters.index(letter) + 1) % len(letters)]
    elif (numbers := list(_NUMBER.finditer(gold))) and problem.kind != "text":
        last = numbers[-1]
        changed = f"{float(last[0]) + 1:g}" if "." in last[0] else str(int(last[0]) + 1)
        yield "number changed", gold[: last.start()] + changed + gold[last.end() :]
    yield "text emptied", ""


def _score_golds(trial: Trial, rewarder: Rewarder, config: RunConfig, problems: Sequence[Problem]) -> None:
    style = config.reward.format_style
    tried: list[tuple[str, Problem, Completion]] = []
    for problem in problems:
        tried.append((GOLD, problem, response_with(problem.answer, style)))
        for what, answer in spoil(problem):
            spoilt = response_with(answer, style) if answer else Completion([0], [], "stop", "")
            tried.append((what, problem, spoilt))
    records = rewarder.records([(problem, completion) for _, problem, completion in tried])
    paid = {}
    for (what, problem, completion), record in zip(tried, records, strict=True):
        trial.rows.setdefault(what, []).append(record)
        if what == GOLD:
            paid[problem.id] = record.total
        elif record.total > paid[problem.id]:
            surprise = Surprise(problem.id, what, completion.text, paid[problem.id], record.total)
            trial.surprises.append(surprise)
        elif record.total == paid[problem.id]:
            trial.equal[what] += 1


def _score_rollouts(trial: Trial, rewarder: Rewarder, problems: Sequence[Problem], folder: Path) -> None:
    """Score the stored responses of a run whose problems are in the data."""
    known = {problem.id: problem for problem in problems}
    missing: list[str] = []
    pairs: list[tuple[Problem, Completion]] = []
    for files in require_rollouts(folder):
        for record in read_rollouts(files, missing):
            problem = known.get(record["prompt"])
            if problem is None:
                trial.unknown += 1
                continue
            ids, reason = record["ids"], record["finish_reason"]
            pairs.append((problem, Completion(ids, [], reason, record["response"])))
            trial.stored.append((record.get("reward") or {}).get("total", 0.0))
    if missing:
        raise RunFolderError(missing[0])
    if pairs:
        trial.rows[ROLLOUTS] = rewarder.records(pairs)
