"""Try to break a run: `PYTHONPATH=tests python -m faults COMMAND --help`. `make faults` and `make soak` call this."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def main() -> int:
    """Run one command; 0 if nothing was found."""
    options = make_parser().parse_args()
    return options.run(options)


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    fuzz = commands.add_parser("fuzz", help="seeded random inputs of every kind")
    fuzz.add_argument("--count", type=int, default=5000, help="inputs in all, or of the one kind (default: 5000)")
    fuzz.add_argument("--only", action="append", help="a kind: config, rows, images, answers, grams, models, runs")
    fuzz.add_argument("--replay", type=Path, help="the folder of a fault that was kept: try its input again")
    fuzz.set_defaults(run=run_fuzz)
    kills = commands.add_parser("kills", help="signals at random moments, deaths at file operations, then resume")
    kills.add_argument("--count", type=int, default=12, help="runs that are killed at random (default: 12)")
    kills.add_argument("--points", type=int, default=40, help="file operations to die at (default: 40)")
    kills.add_argument("--console", type=float, default=0.25, help="share of runs started as a command of their own")
    kills.set_defaults(run=run_kills)
    scenes = commands.add_parser("scenes", help="one rank of two, both workers, a full disk")
    scenes.add_argument("--only", action="append", help="ranks, workers or disk")
    scenes.set_defaults(run=run_scenes)
    for each in (fuzz, kills, scenes):
        each.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
        each.add_argument("--out", type=Path, help="where faults are kept (default: a new folder in the temporary one)")
    soak = commands.add_parser("soak", help="a long run, watched for growth")
    soak.add_argument("--steps", type=int, default=500, help="of training (default: 500)")
    soak.add_argument("--engine", choices=["embedded", "vllm"], default="embedded")
    soak.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder of the run, table and picture")
    soak.set_defaults(run=run_soak)
    return parser


def place_for(options: argparse.Namespace) -> Path:
    """The folder for logs, runs and faults."""
    out = options.out or Path(tempfile.mkdtemp(prefix="faults_"))
    out.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, in {out}", flush=True)
    return out.resolve()


def run_fuzz(options: argparse.Namespace) -> int:
    """Fuzz, or replay one input."""
    from faults.fuzz import GOOD, fuzz, replay
    from faults.targets import TARGETS, shared_out

    out = place_for(options)
    if options.replay:
        name = json.loads((options.replay / "verdict.json").read_text())["target"]
        verdict = replay(TARGETS[name], options.replay, out / "replay")
        print(f"{verdict.outcome}: {verdict.detail}")
        return int(verdict.outcome not in GOOD)
    counts = dict.fromkeys(options.only, options.count) if options.only else shared_out(options.count)
    found = 0
    for name, count in counts.items():
        report = fuzz(TARGETS[name], count, options.seed, out)
        print(report.line(), flush=True)
        for fault in report.faults:
            print(
                f"  {out}/{name}_{options.seed}_{fault.case}: {fault.outcome}: {fault.detail.strip()[-300:]}",
                flush=True,
            )
        found += len(report.faults)
    print(f"{found} faults" if found else "nothing found")
    return int(found > 0)


def run_kills(options: argparse.Namespace) -> int:
    """Random kills with every signal, then file operations."""
    from faults.kills import SIGNALS, Points, Tried, kill_at_random, make_reference

    def tries() -> Iterator[Tried]:
        out, rng = place_for(options), random.Random(options.seed)
        reference = make_reference(out)
        print(f"reference: {reference.seconds:.1f} s, {len(reference.operations)} file operations", flush=True)
        for number in range(options.count):
            by = "KILL" if number % 2 == 0 else list(SIGNALS)[1 + number // 2 % 3]
            yield kill_at_random(reference, out, rng, by, forked=rng.random() >= options.console)
        if options.points:
            points = Points(reference, out)
            print(f"{len(points.all())} points", flush=True)
            for point in points.choose(options.points, rng):
                yield points.try_point(point)

    return tell(tries())


def run_scenes(options: argparse.Namespace) -> int:
    """Ranks, workers and disks."""
    from faults.kills import Tried, make_reference
    from faults.scenes import fill_disk, kill_one_rank, kill_workers, limit_files

    def tries() -> Iterator[Tried]:
        out, rng = place_for(options), random.Random(options.seed)
        wanted = options.only or ["ranks", "workers", "disk"]
        if "workers" in wanted:
            yield from kill_workers(out, rng)
        if "disk" in wanted:
            reference = make_reference(out)
            yield from fill_disk(reference, out, rng)
            yield from limit_files(reference, out, rng)
        if "ranks" in wanted:
            yield from kill_one_rank(out, rng)

    return tell(tries())


def tell(tries) -> int:
    """Print a line for each try as it comes; 1 if any found a fault."""
    found = total = 0
    for tried in tries:
        total, found = total + 1, found + bool(tried.faults)
        print(tried.line(), flush=True)
    print(f"{total} tried, {found} bad", flush=True)
    return int(found > 0)


def run_soak(options: argparse.Namespace) -> int:
    """Watch a long run."""
    from faults.soak import soak

    complaints = soak(options.out.resolve(), options.steps, options.engine)
    print((options.out / "soak.md").read_text() if (options.out / "soak.md").exists() else "", end="")
    print("\n".join(complaints) or f"nothing grew: {options.out}/soak.md, soak.png")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
