"""The Python API: load a configuration, train, evaluate; rewards and callbacks may be Python objects.

Nothing here needs torch until `train` or `evaluate` is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmhicra.config import RunConfig
from mmhicra.config.loading import UNADAPTED, apply_override, build_config, evaluation_config
from mmhicra.config.loading import load_config as load_file
from mmhicra.core.errors import ConfigError
from mmhicra.core.plugins import give_objects
from mmhicra.core.resources import find_config

if TYPE_CHECKING:
    from mmhicra.rewards.custom import CustomReward

Source = RunConfig | Mapping[str, Any] | str | Path
"""A configuration: checked, as a tree of plain values, or the file or shipped name that `--config` takes."""


def load_config(source: Source, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked configuration.

    Args:
        source: a YAML file or the name of one that ships (`tiny`), a tree of plain values, or a configuration.
        overrides: `section.field=value`, as `--set` takes them.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, mistyped or contradicts another.
    """
    if isinstance(source, str | Path):
        return load_file(find_config(str(source)), overrides)
    return build_config(_tree(source, overrides))


def train(
    config: Source,
    *,
    rewards: Sequence[CustomReward | tuple[CustomReward, float]] = (),
    callbacks: Sequence[object] = (),
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, as `mmhicra train` does.

    Args:
        config: see `load_config`.
        rewards: functions `(problem, completion, record) -> float` or `(problems, completions, records) -> list`, async
            or not, each alone or with its weight, beside those that the configuration names; see docs/extend/reward.md.
        callbacks: objects with methods of `train.loop.callbacks.Callback`, or classes that make them, likewise.
        resume: go on with the run in the run folder; `auto` does if there is one.
        overwrite: start anew, and move a run that is in the folder aside.
        quiet: print nothing.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UserError: something the user can mend, before or during the run.
        Interrupted: the run was stopped (Ctrl-C, SIGTERM); it says what was saved.
    """
    checked = _with_objects(load_config(config), rewards, callbacks)

    from mmhicra.train.loop.run import train as train_run
    from mmhicra.train.loop.terminal import Terminal

    terminal = Terminal(quiet=True) if quiet else None
    return train_run(checked, resume=resume, overwrite=overwrite, terminal=terminal)


def evaluate(
    model: Source,
    *,
    benchmarks: Sequence[str | Mapping[str, Any]] = (),
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Answer and score benchmarks, as `mmhicra eval --model` does.

    Args:
        model: a model folder, hub id or shipped model; or a configuration whose `model.path`, limits and benchmarks
            hold (a `RunConfig`, or a tree of plain values).
        benchmarks: names, or trees of the fields of `eval.benchmarks`; if there are any, instead of the
            configuration's.
        overrides: `section.field=value`, as `--set` takes them.
        out: the folder for responses, results and the leaderboard; `runs/eval/` and the model's name if None. Responses
            that an earlier call left there are taken up.
        overwrite: generate anew what lies in the folder.
        quiet: print nothing.

    Returns:
        What stands in each result file, by `BENCHMARK.MODE`, e.g. `mathvista.robust`.

    Raises:
        UserError: the model, a benchmark or what lies in the folder cannot be used.
    """
    changes: dict[str, Any] = {}
    if benchmarks:
        changes["eval.benchmarks"] = [{"name": each} if isinstance(each, str) else dict(each) for each in benchmarks]
    if isinstance(model, str | Path):
        changes |= {"model.path": str(model), **UNADAPTED}
        config = evaluation_config(None, changes, overrides)
    else:
        config = evaluation_config(_tree(model), changes, overrides)

    import torch
    import transformers

    from mmhicra.core.manifest import refuse_damaged_model
    from mmhicra.evaluate.offline import evaluate_model
    from mmhicra.train.loop.terminal import Terminal

    refuse_damaged_model(Path(config.model.path).expanduser())
    transformers.utils.logging.disable_progress_bar()
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = Path(out) if out is not None else Path("runs/eval") / Path(config.model.path).name
    done = evaluate_model(config, folder, Terminal(quiet=quiet), overwrite=overwrite)
    return {each.path.stem: each.scores.result for each in done}


def _tree(config: RunConfig | Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    tree = config.model_dump() if isinstance(config, RunConfig) else _copied(config)
    for override in overrides:
        apply_override(tree, override)
    return tree


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _with_objects(
    config: RunConfig, rewards: Sequence[CustomReward | tuple[CustomReward, float]], callbacks: Sequence[object]
) -> RunConfig:
    """The configuration that names the objects, each by an address of `core.plugins`."""
    tree = config.model_dump()
    for each in rewards:
        pair = isinstance(each, tuple)
        if pair and (len(each) != 2 or not isinstance(each[1], int | float)):
            raise ConfigError(f"rewards: {each!r} is no pair of a function and its weight")
    functions = [each[0] if isinstance(each, tuple) else each for each in rewards]
    weights = [float(each[1]) if isinstance(each, tuple) else 1.0 for each in rewards]
    addresses = give_objects([*functions, *callbacks])
    named = zip(addresses, weights, strict=False)
    tree["reward"]["custom"] += [{"path": path, "weight": weight} for path, weight in named]
    tree["log"]["callbacks"] += addresses[len(functions) :]
    return build_config(tree)
