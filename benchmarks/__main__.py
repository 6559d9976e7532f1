"""`python -m benchmarks`: figures of the machine in front of you. `mmhicra bench` calls it in a checkout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from mmhicra.cli import MENDABLE
from mmhicra.core.errors import UserError
from mmhicra.core.logs import drop_import_warnings
from mmhicra.core.resources import find_config


def main(arguments: Sequence[str] | None = None, prog: str = "python -m benchmarks") -> int:
    """Run one benchmark; returns the exit status.

    Raises:
        UserError: what is asked for cannot be measured here.
    """
    drop_import_warnings()
    options = make_parser(prog).parse_args(arguments)
    return options.run(options)


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The benchmarks and their options."""
    parser = argparse.ArgumentParser(prog=prog, description="measure speed on this machine")
    kinds = parser.add_subparsers(required=True, metavar="what")
    mask = kinds.add_parser("mask", help="tokens per second of the planning mask, with 249 and with 100 000 grams")
    mask.add_argument("--pairs", type=int, default=7, metavar="N", help="paired measurements (default 7)")
    mask.add_argument("--responses", metavar="FILE", help="JSON Lines with responses; default: text is synthesised")
    mask.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json to measure with")
    mask.set_defaults(run=run_mask)
    mining = kinds.add_parser("mining", help="seconds and memory of mining a corpus of planted strategies")
    mining.add_argument("--solutions", type=int, default=20_000, metavar="N", help="default 20000")
    mining.add_argument("--words", type=int, default=400, metavar="N", help="words of a solution (default 400)")
    mining.set_defaults(run=run_mining)
    telemetry = kinds.add_parser("telemetry", help="share of telemetry in a training step")
    telemetry.add_argument("--config", default="tiny", type=find_config, metavar="FILE", help="default: tiny")
    telemetry.add_argument("--steps", type=int, default=20, metavar="N")
    telemetry.set_defaults(run=run_telemetry)
    step = kinds.add_parser("train", help="a training step beside TRL's: seconds by phase, FLOPs, memory")
    step.add_argument(
        "--against", choices=("trl", "trl-async", "none"), default="trl", help="default trl (needs mmhicra[bench])"
    )
    _add_shape(step, model="tiny", pairs=5)
    step.add_argument(
        "--checkpointing",
        choices=("none", "selective", "full"),
        nargs="?",
        const="full",
        default="none",
        help="model.checkpointing; TRL computes everything again unless none (default none; without a value full)",
    )
    step.add_argument("--update-only", action="store_true", help="no rollout, no optimizer; both sides share one model")
    step.add_argument("--rows", type=int, default=0, metavar="N", help="TRL's responses a micro-batch (default all)")
    step.add_argument("--groups", type=int, default=1, metavar="N", help="of a row; our updates alone (default 1)")
    step.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    step.set_defaults(run=run_train)
    add_parts(kinds)
    for kind in kinds.choices.values():
        kind.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def add_parts(kinds: Any) -> None:
    """Add what measures a part of a step."""
    stored = kinds.add_parser("stored", help="bytes of weights, gradients and optimizer state, by how they are stored")
    stored.add_argument("--model", choices=("3b", "7b"), default="7b", help="a shape (default 7b)")
    stored.add_argument("--gpus", type=int, default=1, metavar="N", help="the model is split over them (default 1)")
    stored.set_defaults(run=run_stored)
    rollout = kinds.add_parser("rollout", help="the embedded engine beside transformers' generate")
    _add_shape(rollout, model="tiny", pairs=5)
    rollout.set_defaults(run=run_rollout)
    attention = kinds.add_parser("attention", help="every attention beside one row a response, one layer")
    _add_shape(attention, model="40m", pairs=8)
    attention.set_defaults(run=run_attention)
    logprob = kinds.add_parser("logprob", help="log-probs and entropies in chunks beside all logits at once")
    logprob.add_argument("--tokens", type=int, default=1024, metavar="T", help="response tokens (default 1024)")
    logprob.add_argument("--hidden", type=int, default=1024, metavar="H", help="hidden size (default 1024)")
    logprob.add_argument("--vocabulary", type=int, default=151_936, metavar="V", help="default 151936")
    logprob.add_argument("--chunk", type=int, default=256, metavar="N", help="positions at a time (default 256)")
    logprob.add_argument("--pairs", type=int, default=5, metavar="N", help="measurements of each side (default 5)")
    logprob.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    logprob.add_argument("--kernel", choices=("chunks", "fused"), default="fused", help="train.logprob_kernel")
    logprob.set_defaults(run=run_logprob)
    rewards = kinds.add_parser("rewards", help="verdicts a processor second, and what hostile answers cost a batch")
    rewards.add_argument("--pairs", type=int, default=3, metavar="N", help="measurements (default 3)")
    rewards.add_argument("--batch", type=int, default=512, metavar="N", help="answers of a batch (default 512)")
    rewards.add_argument("--hostile", type=int, default=64, metavar="N", help="hostile ones of them (default 64)")
    rewards.set_defaults(run=run_rewards)
    scaling = kinds.add_parser("scaling", help="what a rank holds, computes and asks others for, by processes")
    scaling.add_argument("--model", choices=("tiny", "40m", "300m", "3b", "7b"), default="tiny", help="default tiny")
    scaling.add_argument("--regime", choices=("A", "B", "C"), default="A", help="lengths (default A)")
    scaling.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default 1 2 4")
    scaling.add_argument("--pairs", type=int, default=3, metavar="N", help="updates (default 3); 0: loading alone")
    scaling.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="where there are several (model.shard=true)"
    )
    scaling.set_defaults(run=run_scaling)
    ablation = kinds.add_parser("ablation", help="what each lever of the update is worth: seconds, MFU, memory")
    ablation.add_argument("--model", choices=("tiny", "40m", "3b", "7b"), default="7b", help="a shape (default 7b)")
    ablation.add_argument("--regime", choices=("A", "B", "C"), default="B", help="of the levers (default B)")
    ablation.add_argument("--pairs", type=int, default=3, metavar="N", help="updates of each (default 3)")
    ablation.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    ablation.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="an option of every stage")
    ablation.set_defaults(run=run_ablation)
    qlora = kinds.add_parser(
        "qlora", help="a 4-bit base under adapters: memory, seconds, and the merged model's logits"
    )
    qlora.add_argument("--model", choices=("tiny", "40m", "3b", "7b"), default="3b", help="a shape (default 3b)")
    qlora.add_argument("--tokens", type=int, default=4096, metavar="L", help="of a row (default 4096)")
    qlora.add_argument("--pairs", type=int, default=5, metavar="N", help="updates (default 5)")
    qlora.set_defaults(run=run_qlora)


def _add_shape(parser: Any, model: str, pairs: int) -> None:
    """What is measured, how long it is, how often and in which precision; with the defaults of a command."""
    parser.add_argument(
        "--model", choices=("tiny", "40m", "3b", "7b"), default=model, help=f"a shape, random weights (default {model})"
    )
    parser.add_argument(
        "--regime", choices=("A", "B", "C"), default="A", help="lengths; see docs/explanation/performance.md"
    )
    parser.add_argument("--group", type=int, default=0, metavar="G", help="responses of the group (default 8)")
    parser.add_argument("--pairs", type=int, default=pairs, metavar="N", help=f"of each side (default {pairs})")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="an option of our side's configuration"
    )


def run_mask(options: argparse.Namespace) -> int:
    """`mmhicra bench mask`."""
    from benchmarks import mask

    result = mask.run_mask(pairs=options.pairs, responses=options.responses, tokenizer=options.tokenizer)
    return _show(options, result, mask.print_mask)


def run_mining(options: argparse.Namespace) -> int:
    """`mmhicra bench mining`."""
    from rich.console import Console

    from benchmarks import mining

    result = mining.run_mining(solutions=options.solutions, words=options.words)
    return _show(options, result, lambda figures: mining.show_mining(figures, Console()))


def run_telemetry(options: argparse.Namespace) -> int:
    """`mmhicra bench telemetry`."""
    from benchmarks import telemetry

    result = telemetry.run_telemetry(options.config, options.steps)
    return _show(options, result, telemetry.print_telemetry)


def run_train(options: argparse.Namespace) -> int:
    """`mmhicra bench train`."""
    from benchmarks import train
    from benchmarks.progress import shown

    settings = train.Settings(
        model=options.model,
        regime=options.regime,
        group=options.group,
        pairs=options.pairs,
        against=options.against,
        precision=options.precision,
        checkpointing=options.checkpointing,
        memory=not options.no_memory,
        update_only=options.update_only,
        rows=options.rows,
        options=tuple(options.set),
        groups=options.groups,
    )
    with shown("bench train") as progress:
        result = train.run_train(settings, progress)
    return _show(options, result, train.print_train)


def run_stored(options: argparse.Namespace) -> int:
    """`stored`."""
    from benchmarks.stored import show

    show(options.model, options.gpus, options.json)
    return 0


def run_rollout(options: argparse.Namespace) -> int:
    """`mmhicra bench rollout`."""
    from benchmarks import rollout
    from benchmarks.progress import shown

    with shown("bench rollout") as progress:
        result = rollout.run_rollout(
            options.model, options.regime, options.group, options.pairs, options.precision, progress, options.set
        )
    return _show(options, result, rollout.print_rollout)


def run_attention(options: argparse.Namespace) -> int:
    """`mmhicra bench attention`."""
    from benchmarks import attention
    from benchmarks.progress import shown

    with shown("bench attention") as progress:
        result = attention.run_attention(
            options.model, options.regime, options.group, options.pairs, options.precision, progress
        )
    return _show(options, result, attention.print_attention)


def run_logprob(options: argparse.Namespace) -> int:
    """`mmhicra bench logprob`."""
    from benchmarks import logprob
    from benchmarks.progress import shown

    sizes = (options.tokens, options.hidden, options.vocabulary, options.chunk)
    with shown("bench logprob") as progress:
        result = logprob.run_logprob(*sizes, options.pairs, options.precision, options.kernel, progress)
    return _show(options, result, logprob.print_logprob)


def run_rewards(options: argparse.Namespace) -> int:
    """`mmhicra bench rewards`."""
    from benchmarks import rewards

    result = rewards.run_rewards(options.pairs, batch=options.batch, hostile=options.hostile)
    return _show(options, result, rewards.print_rewards)


def run_scaling(options: argparse.Namespace) -> int:
    """`mmhicra bench scaling`."""
    from benchmarks import scaling
    from benchmarks.progress import shown

    settings = scaling.ScalingSettings(
        options.model,
        options.regime,
        tuple(options.processes),
        options.pairs,
        tuple(options.set or ["model.shard=true"]),
    )
    with shown("bench scaling") as progress:
        result = scaling.run_scaling(settings, progress)
    return _show(options, result, scaling.print_scaling)


def run_ablation(options: argparse.Namespace) -> int:
    """`mmhicra bench ablation`."""
    from benchmarks import ablation
    from benchmarks.progress import shown

    settings = ablation.AblationSettings(
        options.model, options.regime, options.pairs, options.precision, tuple(options.set)
    )
    with shown("bench ablation") as progress:
        result = ablation.run_ablation(settings, progress)
    return _show(options, result, ablation.print_ablation)


def run_qlora(options: argparse.Namespace) -> int:
    """`mmhicra bench qlora`."""
    from benchmarks import qlora

    result = qlora.run_qlora(options.model, options.tokens, options.pairs)
    return _show(options, result, qlora.print_qlora)


def _show(options: argparse.Namespace, result: dict[str, Any], show: Any) -> int:
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as refusal:
        print(f"benchmarks: {refusal}", file=sys.stderr)
        sys.exit(MENDABLE)
