"""`mmhicra report`: one self-contained HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("report", help="write one HTML page of a run: curves, rollouts, rewards, grams")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders or a lab's folder; the first is browsed")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in the first folder")
    parser.add_argument("--serve", action="store_true", help="follow a run that is still going, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8730, help="of --serve (default 8730)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="of --serve: another name that browsers may ask by, e.g. localhost:9000 through a tunnel; repeatable",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page, or serve it."""
    from mmhicra.report.folder import find_runs
    from mmhicra.report.page import write_report
    from mmhicra.train.loop.terminal import Terminal

    terminal = Terminal()
    named = [Path(name) for name in options.runs]
    paths = find_runs(named)
    out = Path(options.out) if options.out else named[0] / "report.html"
    if options.serve:
        from mmhicra.report.serve import serve

        serve(paths, out, options.port, terminal.say, options.allow_host)
        return 0
    with terminal.watch("report") as bar:
        missing = write_report(paths, out, lambda phase, done, total: terminal.advance(bar, done, total))
    for sentence in missing:
        terminal.say(f"  not on the page: {sentence}")
    terminal.say(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0
