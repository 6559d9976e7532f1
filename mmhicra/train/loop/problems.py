"""The problems that a run trains and evaluates on: checked by all that will use them, and in their order."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from mmhicra.config import RunConfig
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.curriculum import Curriculum
from mmhicra.data.dataset import Loaded, load_problems, refuse_without_images
from mmhicra.data.mixture import Mixture
from mmhicra.data.refused import summarise_refused
from mmhicra.data.stream import ProblemStream
from mmhicra.rewards.golds import gold_problem
from mmhicra.rewards.reward import Rewarder
from mmhicra.train.loop.terminal import Terminal
from mmhicra.vlm.processing import ImageSize, PromptBuilder, warn_of_shrinking


def load_checked_problems(
    config: RunConfig, prompts: PromptBuilder, rewarder: Rewarder, terminal: Terminal, refused_path: Path | None
) -> Loaded:
    """Problems that every later room can use; the others are listed in `refused.jsonl`.

    Raises:
        DataError: the source cannot be read, too many rows are refused, or too few are left for one step.
    """
    # Where no term of the reward reads the gold, a caption or a list of boxes is a gold like any other.
    raw = {name for name, reward in config.rewards().items() if not reward.reads_gold}
    sizes: list[ImageSize] = []
    with terminal.watch("checking problems") as bar:
        problems = load_problems(
            config.data,
            config.seed,
            [
                lambda problem: None if problem.dataset in raw else gold_problem(problem, rewarder.verifier),
                rewarder.gold_fault,
                partial(prompts.check, sizes=sizes),
            ],
            held_out=config.eval.problems,
            raw=raw,
            refused_path=refused_path,
            progress=lambda done, total: terminal.advance(bar, done, total),
        )
    terminal.say(
        f"data {config.data.title}: {len(problems.train)} problems to train on, {len(problems.held_out)} held out"
    )
    for line in summarise_refused(problems.refused):
        terminal.say(f"  refused {line}")
    for line in problems.notes:
        terminal.say(f"  {line}")
    refuse_without_images(problems, config.data)
    if warning := warn_of_shrinking(sizes, config.data):
        terminal.say(f"  {warning}")
    refuse_too_few(config, problems.train)
    return problems


def refuse_too_few(config: RunConfig, problems: list[Problem]) -> None:
    """Raise DataError if a source has fewer problems than it gives one step."""
    wanted, whole = config.train.prompts_per_step, sum(config.data.shares().values())
    for source in config.data.sources:
        has, gives = sum(p.dataset == source.called for p in problems), math.ceil(wanted * source.weight / whole)
        if has < gives:
            raise DataError(
                f"{source.source} leaves {has} problems to train on, fewer than the {gives} that it gives one step: "
                f"lower the weight of {source.called} or train.prompts_per_step ({wanted})"
            )
    if len(problems) < wanted:
        raise DataError(
            f"{config.data.title} leaves {len(problems)} problems to train on, fewer than one step takes: "
            f"set train.prompts_per_step ({wanted}) to {len(problems)} or less"
        )


def make_stream(config: RunConfig, problems: list[Problem]) -> ProblemStream | Mixture:
    """The order of the problems; of several sources, each by its share."""
    shares = config.data.shares()
    if not shares:
        curriculum = make_curriculum(config, problems, share=1.0)
        return ProblemStream(problems, config.seed, config.data.shuffle, curriculum)
    curricula = {
        name: make_curriculum(config, [one for one in problems if one.dataset == name], weight / sum(shares.values()))
        for name, weight in shares.items()
    }
    return Mixture(problems, shares, config.seed, config.data.shuffle, curricula)


def make_curriculum(config: RunConfig, problems: list[Problem], share: float) -> Curriculum | None:
    """What leaves out problems of a source that has this share of the draw; None if nothing does."""
    if config.data.curriculum is None:
        return None
    least = math.ceil(config.train.prompts_per_step * share)
    return Curriculum(config.data.curriculum, [problem.id for problem in problems], least)
