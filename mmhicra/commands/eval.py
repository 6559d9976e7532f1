"""`mmhicra eval`: models and stored responses on benchmarks, scored without an API key."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhicra.commands import eval_lmms
from mmhicra.commands.eval_ranks import evaluating_processes, refusing_together
from mmhicra.commands.options import add_config, add_verbosity, libraries_level
from mmhicra.core.logs import logged
from mmhicra.train.distributed.launch import speaks

if TYPE_CHECKING:
    from mmhicra.config import RunConfig
    from mmhicra.evaluate.scoring.judging import AnswerJudge
    from mmhicra.evaluate.together import Processes

SETTINGS = {
    "engine": "rollout.engine",
    "max_new_tokens": "eval.max_new_tokens",
    "max_pixels": "data.max_pixels",
    "min_pixels": "data.min_pixels",
    "n": "eval.n",
    "seed": "seed",
    "temperature": "eval.temperature",
}
"""Options that are fields of the configuration under another name."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "eval", help="evaluate a model, or score stored responses: MathVista, MathVerse, MathVision and others"
    )
    _add_model_options(parser)
    kinds = parser.add_subparsers(metavar="score | subset | parity")
    eval_lmms.add_parity(kinds)
    score = kinds.add_parser("score", help="score stored responses: no model, no API key")
    score.add_argument("--benchmark", metavar="NAME")
    score.add_argument("--responses", metavar="FILE", help="an output file, plain or gzipped")
    score.add_argument("--questions", metavar="SOURCE", help="file, folder or hub id; default: in the file, or the hub")
    score.add_argument("--split", metavar="NAME", help="of the questions, where they have several")
    score.add_argument("--mode", choices=("official", "robust"), default=None, help="default: the benchmark's first")
    score.add_argument(
        "--stage", choices=("response", "equality"), default="response", help="equality: extraction kept"
    )
    score.add_argument("--integer-rule", choices=("current", "legacy"), default="current", help="of mathvista")
    score.add_argument("--out", type=Path, metavar="FILE", help="result file; default: RESPONSES.MODE.json here")
    _add_judge_options(score)
    score.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two results instead: a paired test")
    score.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    score.set_defaults(run=run_score)
    subset = kinds.add_parser("subset", help="draw a fixed subset by strata and store its ids")
    subset.add_argument("--benchmark", required=True, metavar="NAME")
    subset.add_argument("--questions", metavar="SOURCE", help="file, folder or hub id; default: the hub")
    subset.add_argument("--split", metavar="NAME")
    subset.add_argument(
        "--by", default="", metavar="GROUP,GROUP", help="what strata are made of, e.g. task,question_type"
    )
    subset.add_argument("--count", type=int, required=True)
    subset.add_argument("--seed", type=int, default=0)
    subset.add_argument("--out", type=Path, required=True, metavar="FILE")
    subset.set_defaults(run=run_subset)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH", help="a model folder, a checkpoint or a hub id")
    parser.add_argument("--run-folder", type=Path, metavar="RUN", help="instead: a run, at the step of its best.json")
    parser.add_argument("--step", type=int, metavar="N", help="of --run-folder: another checkpoint")
    parser.add_argument("--benchmarks", metavar="NAME[:SPLIT],...", help="default: those of the configuration")
    add_config(parser, help="a run's configuration: its limits, decoding and benchmarks")
    for name, what in (
        ("data", "file, folder or hub id of a benchmark's questions; default: its card's hub id"),
        ("images", "the folder with a benchmark's images; default: that of its questions"),
        ("subset", "one that ships (eval/subsets) or a file of ids"),
        ("prompt", "one on the benchmark's card; default: the first"),
    ):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar=f"NAME={name.upper()}", help=f"{what}; repeatable"
        )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each benchmark")
    parser.add_argument("--engine", metavar="NAME", help="what generates; default: hf")
    eval_lmms.add_backend(parser)
    parser.add_argument("--n", type=int, metavar="K", help="responses to each question: avg@k, pass@k, maj@k")
    parser.add_argument("--temperature", type=float, help="default: 0, greedy")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="the longest response; default: 4096")
    parser.add_argument("--chat-template-kwargs", metavar="MAP", help="e.g. '{\"enable_thinking\": false}'")
    parser.add_argument("--min-pixels", type=int, metavar="N")
    parser.add_argument("--max-pixels", type=int, metavar="N")
    parser.add_argument("--seed", type=int)
    _add_judge_options(parser)
    parser.add_argument("--name", help="of the model on the leaderboard; default: the last part of --model")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: eval_runs/NAME")
    parser.add_argument("--overwrite", action="store_true", help="generate anew what lies in the folder")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    add_verbosity(parser)
    parser.set_defaults(run=run_model)


def _add_judge_options(parser: argparse.ArgumentParser) -> None:
    judge = parser.add_argument_group("a judge, only for what the rules cannot decide")
    judge.add_argument("--judge", metavar="URL", help="of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1")
    judge.add_argument("--judge-model", metavar="NAME", help="what the API calls the judge")
    judge.add_argument("--judge-mode", choices=("local", "official"), default="local", help="whose prompts")
    judge.add_argument("--judge-key-env", metavar="NAME", default="OPENAI_API_KEY", help="variable with the key")
    judge.add_argument("--judge-cache", type=Path, metavar="FILE", default=Path("judge_cache.jsonl"))
    judge.add_argument("--judge-retries", type=int, metavar="N", default=5)
    judge.add_argument("--judge-concurrency", type=int, metavar="N", default=8)
    judge.add_argument("--judge-prices", nargs=2, type=float, metavar=("IN", "OUT"), help="per million tokens")


def _judge(options: argparse.Namespace) -> AnswerJudge | None:
    from mmhicra.core.endpoint import ChatEndpoint, Endpoint, ReplyCache
    from mmhicra.core.errors import ConfigError
    from mmhicra.evaluate.scoring.judging import AnswerJudge

    if options.judge is None:
        return None
    endpoint = Endpoint(
        options.judge,
        options.judge_model or "",
        options.judge_key_env,
        temperature=0.0,
        retries=options.judge_retries,
        concurrency=options.judge_concurrency,
    )
    if not options.judge_model:
        raise ConfigError(f"--judge {endpoint.shown} needs --judge-model NAME: the model to ask there")
    try:
        options.judge_cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--judge-cache {options.judge_cache} cannot be written ({error.strerror})") from None
    chat = ChatEndpoint(endpoint, ReplyCache(options.judge_cache))
    return AnswerJudge(chat, options.judge_mode, tuple(options.judge_prices) if options.judge_prices else None)


def run_model(options: argparse.Namespace) -> int:
    """`mmhicra eval --model`: answer, score, write results and the leaderboard, print."""
    with evaluating_processes() as processes:
        return run_in(processes, options)


def run_in(processes: Processes | None, options: argparse.Namespace) -> int:
    """The same, as one of `processes`, of which the main one scores, writes and prints; None is this one alone."""
    import json

    from mmhicra.core.errors import ConfigError
    from mmhicra.core.manifest import refuse_damaged_model

    with refusing_together(processes):
        if processes and options.backend == "lmms-eval":
            raise ConfigError("--backend lmms-eval runs in one process: start it without torchrun")
        checkpoint = chosen_checkpoint(options)
        config = model_config(options, checkpoint)  # before torch is imported: mistakes show at once
        refuse_damaged_model(checkpoint or Path(config.model.path).expanduser())
        judge = _judge(options) if speaks(os.environ) and options.backend != "lmms-eval" else None

    import torch
    import transformers

    from mmhicra.evaluate.offline import evaluate_model
    from mmhicra.evaluate.table import result_table
    from mmhicra.train.loop.terminal import Terminal

    transformers.utils.logging.disable_progress_bar()
    if config.threads:
        torch.set_num_threads(config.threads)
    terminal = Terminal(quiet=options.json or not speaks(os.environ), level=options.level)
    name = options.name or (f"{options.run_folder.name}-{checkpoint.name}" if checkpoint else None)
    folder = options.out or Path("runs/eval") / (name or Path(config.model.path).name)
    choices: dict[str, Any] = {"name": name, "overwrite": options.overwrite, "checkpoint": checkpoint}
    with logged(terminal.handler, libraries=libraries_level(options.level)):
        if options.backend == "lmms-eval":
            done = eval_lmms.evaluate(config, folder, terminal, options, choices)
        else:
            done = evaluate_model(config, folder, terminal, judge=judge, processes=processes, **choices)
    if options.json and speaks(os.environ):
        print(json.dumps([evaluated.scores.result for evaluated in done], indent=1, ensure_ascii=False))
        return 0
    for evaluated in done:
        terminal.console.print(result_table(evaluated.scores.result))
        terminal.conclude(f"result {evaluated.path}")
    return 0


def chosen_checkpoint(options: argparse.Namespace) -> Path | None:
    """The checkpoint of `--run-folder` to evaluate: of `--step`, else the best, else the newest; None without a run.

    Raises:
        ConfigError: there is a model as well, or no such checkpoint, or `best.json` does not say which one it is.
        RunFolderError: the checkpoint is damaged.
    """
    from mmhicra.core.errors import ConfigError
    from mmhicra.core.step_names import step_name, steps_in

    if options.run_folder is None:
        return None
    if options.model or options.config:
        raise ConfigError("--run-folder brings its model and configuration: drop --model and --config")
    checkpoints = options.run_folder / "checkpoints"
    best = checkpoints / "best.json"
    newest = max(steps_in(checkpoints), default=(0, Path("step_*")))[1].name
    best_or_newest = noted_best(best) if options.step is None and best.exists() else newest
    chosen = checkpoints / (best_or_newest if options.step is None else step_name(options.step))
    if not chosen.is_dir():
        raise ConfigError(f"{chosen} does not exist: name a run folder and the step of one of its checkpoints")
    return chosen


def noted_best(file: Path) -> str:
    """The name of the checkpoint that `best.json` notes.

    Raises:
        ConfigError: the file is damaged.
    """
    import json

    from mmhicra.core.errors import ConfigError, brief, one_line
    from mmhicra.core.step_names import step_of

    try:
        noted = json.loads(file.read_bytes())["checkpoint"]
        reason = None if isinstance(noted, str) and step_of(noted) is not None else f"its checkpoint is {brief(noted)}"
    except OSError as error:
        noted, reason = "", error.strerror or type(error).__name__
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        noted, reason = "", "it has no checkpoint" if isinstance(error, KeyError) else one_line(str(error))
    if reason is not None:
        raise ConfigError(f"{file} is damaged ({reason}): say which checkpoint is meant with --step N")
    return noted


def model_config(options: argparse.Namespace, checkpoint: Path | None = None) -> RunConfig:
    """The configuration that the options describe.

    Raises:
        ConfigError: no model is named, or an option or field is wrong.
    """
    from mmhicra.config.loading import UNADAPTED, evaluation_config, read_yaml
    from mmhicra.core.errors import ConfigError

    if not options.model and not checkpoint:
        raise ConfigError("eval needs --model, --run-folder, or `eval score` for stored responses")
    path = options.run_folder / "config.yaml" if checkpoint else options.config
    changes: dict[str, Any] = {}
    if not checkpoint:
        changes |= {"model.path": options.model, **UNADAPTED}
    changes |= {
        name: getattr(options, option) for option, name in SETTINGS.items() if getattr(options, option) is not None
    }
    if options.benchmarks:
        changes["eval.benchmarks"] = named_benchmarks(options)
    overrides = list(options.overrides)
    if options.chat_template_kwargs:
        overrides.append(f"data.chat_template_kwargs={options.chat_template_kwargs}")
    return evaluation_config(read_yaml(Path(path)) if path else None, changes, overrides)


def named_benchmarks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The entries of `eval.benchmarks` that the options describe.

    Raises:
        ConfigError: an option names a benchmark that is not evaluated on.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, split in (split_of(text.strip()) for text in options.benchmarks.split(",") if text):
        entries[name] = {"name": name} | ({"split": split} if split else {})
    for option, field in (("data", "source"), ("images", "images"), ("subset", "subset"), ("prompt", "prompt")):
        for name, value in _by_benchmark(getattr(options, option), option, list(entries)):
            entries[name][field] = value
    if options.limit is not None:
        for entry in entries.values():
            entry["limit"] = options.limit
    return list(entries.values())


def split_of(text: str) -> tuple[str, str]:
    """Name and split of `NAME:SPLIT`, where the name may be the address of a benchmark of the user's own."""
    first, _, rest = text.partition(":")
    if rest and (first.endswith(".py") or ("." in first and not first.endswith(".yaml"))):
        name, _, rest = rest.partition(":")
        return f"{first}:{name}", rest
    return first, rest


def _by_benchmark(texts: Sequence[str], option: str, names: Sequence[str]) -> list[tuple[str, str]]:
    from mmhicra.core.errors import ConfigError

    found: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and option == "prompt":
            found += [(each, text) for each in names]
        elif equals and name in names:
            found.append((name, value))
        else:
            example = f"--{option} {names[0]}=..."
            raise ConfigError(f"--{option} {text}: write it as {example}, one of {', '.join(names)}")
    return found


def run_score(options: argparse.Namespace) -> int:
    """`mmhicra eval score`: score, write the result and a line per sample, print."""
    import json

    from rich.console import Console

    from mmhicra.core.errors import ConfigError
    from mmhicra.evaluate.benchmarks.registry import make_benchmark
    from mmhicra.evaluate.results import sample_path, write_result
    from mmhicra.evaluate.scoring.score import score_file
    from mmhicra.evaluate.table import result_table

    if options.compare:
        return _compare(options)
    if not options.benchmark or not options.responses:
        raise ConfigError("eval score needs --benchmark and --responses, or --compare with two results")
    benchmark = make_benchmark(options.benchmark, options.integer_rule)
    mode = options.mode or benchmark.card.modes[0]
    source = (options.responses, options.questions)
    scores = score_file(benchmark, *source, mode, options.stage, options.split, _judge(options))
    out = options.out or Path(f"{Path(options.responses).name.split('.json')[0]}.{mode}.json")
    write_result(out, scores)
    if options.json:
        print(json.dumps(scores.result, indent=1, ensure_ascii=False))
    else:
        console = Console()
        console.print(result_table(scores.result))
        console.print(f"result in {out}, a line per sample in {sample_path(out)}", highlight=False, soft_wrap=True)
    return 0


def run_subset(options: argparse.Namespace) -> int:
    """`mmhicra eval subset`: draw ids, write them, say how many of each stratum."""
    from rich.console import Console

    from mmhicra.evaluate.benchmarks.registry import load_items, make_benchmark
    from mmhicra.evaluate.benchmarks.subsets import stratify, write_subset

    items = load_items(make_benchmark(options.benchmark), options.questions, options.split)
    by = [name for name in options.by.split(",") if name]
    drawn = stratify(items, by, options.count, options.seed)
    source = Path(options.questions).name if options.questions else "the card's hub id"
    write_subset(options.out, options.benchmark, drawn, by, options.seed, source)
    Console(highlight=False, soft_wrap=True).print(f"{len(drawn)} of {len(items)} questions in {options.out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from mmhicra.evaluate.comparison import compare_results

    found = compare_results(*options.compare)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.shared} questions in common: {found.first:.2%} against {found.second:.2%}")
    console.print(
        f"difference {100 * found.difference.mean:+.2f} points (95 % interval {100 * found.difference.low:+.2f} to "
        f"{100 * found.difference.high:+.2f}), p = {found.p:.3g} (exact McNemar test: "
        f"{found.only_first} only the first got right, {found.only_second} only the second)"
    )
    for warning in found.warnings:
        console.print(f"not alike: {warning}")
    return 0
