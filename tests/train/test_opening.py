"""Which fields a resumed run may set anew: a change of any other one is refused by name."""

import json
from pathlib import Path

import pytest

from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError
from mmhicra.train.loop.opening import refuse_other_run

MAY_CHANGE = {
    *("model.checkpointing", "model.checkpointing_layers"),
    *("run_folder", "threads", "model.shard", "parallel.replicate", "parallel.reshard", "parallel.sequence"),
    *("train.steps", "train.grace_seconds", "train.rank_timeout", "eval.every"),
    *("eval.benchmarks", "eval.max_new_tokens", "eval.keep_best", "eval.best_by", "reward.workers"),
    *(
        "reward.custom_concurrency",
        "reward.time_limit",
        "reward.custom_threads",
        "reward.custom_attempts",
        "reward.custom_wait",
    ),
    *("reward.custom_time_limit", "reward.custom_failures", "log.checkpoint_every", "log.keep_checkpoints"),
    *(
        "log.rollouts_every",
        "log.rollouts_keep",
        "log.rollouts_share",
        "log.trackers",
        "log.callbacks",
        "log.project",
        "log.checkpoint_model",
        *("log.checkpoint_async", "log.checkpoint_gib", "log.weights_every", "log.keep_weights"),
    ),
}
"""What changes neither the weights nor what accuracies before and after training are of."""
OPTIONAL = "model.lora={}\nhicra.schedule={end: 0.1, steps: 5}\ntrain.loss={siren: {}, correction: {}}"


def leaves(tree, path=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def changed(tree, name):
    """A copy of the tree in which a field has another value."""
    copy = json.loads(json.dumps(tree))
    *path, last = name.split(".")
    at = copy
    for part in path:
        at = at[part]
    at[last] = "another"
    return copy


def test_only_these_fields_may_change():
    config = load_config(None, OPTIONAL.split("\n"))
    tree = config.model_dump()
    refuse_other_run(tree, config, Path("run"))
    names = set(leaves(tree))
    assert names >= MAY_CHANGE
    for name in names & MAY_CHANGE:
        refuse_other_run(changed(tree, name), config, Path("run"))
    for name in names - MAY_CHANGE:
        with pytest.raises(ConfigError, match=f"run with another configuration: {name} was 'another', is "):
            refuse_other_run(changed(tree, name), config, Path("run"))


def test_a_judge_may_be_reached_in_another_way_but_not_be_another():
    judge = {"name": "taste", "url": "http://127.0.0.1:8000/v1", "model": "m", "prompt": "judge.txt"}
    before = load_config(None, [f"reward.judges={json.dumps([judge])}"]).model_dump()
    ways = {
        "url": "http://other:1/v1",
        "timeout": 3.0,
        "concurrency": 2,
        "retries": 1,
        "price_in": 1.0,
        "price_out": 2.0,
    }
    refuse_other_run(before, load_config(None, [f"reward.judges={json.dumps([judge | ways])}"]), Path("run"))
    for name, value in {"weight": 2.0, "model": "n", "prompt": "p.txt", "scale": [0, 5], "images": True}.items():
        other = load_config(None, [f"reward.judges={json.dumps([judge | {name: value}])}"])
        with pytest.raises(ConfigError, match="another configuration: reward.judges was"):
            refuse_other_run(before, other, Path("run"))


def test_every_field_that_differs_is_named():
    config = load_config(None)
    before = changed(changed(config.model_dump(), "seed"), "credit.method")
    with pytest.raises(ConfigError, match="credit.method was 'another', is 'hicra'; seed was 'another', is 0"):
        refuse_other_run(before, config, Path("run"))
