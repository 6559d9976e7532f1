"""`mmhicra doctor`: check a configuration before it is trained with."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from mmhicra.commands.options import add_config
from mmhicra.core.errors import UserError

FAULTY = 1
"""Exit status when the verdict is not clean."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="check a configuration, its data, model and memory before training")
    add_config(parser, required=True)
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes that training will be started with (default: one for each GPU)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine, and print the report."""
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes is {options.processes}: training takes at least one")
    from rich.console import Console

    from mmhicra.doctor.doctor import Doctor
    from mmhicra.doctor.lines import ConfigLines
    from mmhicra.doctor.terminal import as_dict, show_report

    sys.path.append(os.getcwd())  # custom rewards lie where the user stands, as in `mmhicra train`
    with Console(stderr=True).status("checking") as status:

        def progress(title: str, done: int, total: int) -> None:
            status.update(f"{title}: {done} of {total}" if total else title)

        doctor = Doctor(options.config, options.overrides, options.processes, progress)
        report = doctor.run()
    lines = ConfigLines(options.config, options.overrides, getattr(doctor, "config", None))
    if options.json:
        print(json.dumps(as_dict(report, lines), indent=1))
    else:
        show_report(report, lines, Console())
    return 0 if report.healthy else FAULTY
