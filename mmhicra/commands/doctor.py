"""`mmhicra doctor`: check a configuration, or a model alone, before it is trained with."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from mmhicra.commands.options import add_config
from mmhicra.core.errors import UserError

if TYPE_CHECKING:
    from mmhicra.doctor.findings import Report
    from mmhicra.doctor.lines import ConfigLines

FAULTY = 1
"""Exit status when the verdict is not clean."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="check a configuration, its data, model and memory before training")
    add_config(parser)
    parser.add_argument("--model", metavar="MODEL", help="check this model folder or hub id alone; takes no --config")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes that training will be started with (default: one for each GPU)",
    )
    parser.add_argument(
        "--gpus",
        metavar="NxKIND",
        help="plan for GPUs that are not here, by shapes alone and without data or weights: e.g. 8xH100-80",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine, and print the report."""
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes is {options.processes}: training takes at least one")
    if (options.model is None) == (options.config is None):
        raise UserError("doctor checks a configuration (--config FILE) or a model (--model MODEL): name one of them")
    if options.model is not None:
        return run_on_model(options)
    if options.gpus is not None:
        return run_plan(options)
    from rich.console import Console

    from mmhicra.doctor.doctor import Doctor
    from mmhicra.doctor.lines import ConfigLines

    sys.path.append(os.getcwd())  # custom rewards lie where the user stands, as in `mmhicra train`
    with Console(stderr=True).status("checking") as status:

        def progress(title: str, done: int, total: int) -> None:
            status.update(f"{title}: {done} of {total}" if total else title)

        doctor = Doctor(options.config, options.overrides, options.processes, progress)
        report = doctor.run()
    return tell(report, ConfigLines(options.config, options.overrides, getattr(doctor, "config", None)), options.json)


def run_plan(options: argparse.Namespace) -> int:
    """Plan for GPUs that are named, and print the report."""
    if options.processes is not None:
        raise UserError("doctor --gpus plans one process for each GPU: drop --processes")
    from mmhicra.doctor.gpus import parse_gpus
    from mmhicra.doctor.lines import ConfigLines
    from mmhicra.doctor.planner import Planner

    count, gpu = parse_gpus(options.gpus)
    planner = Planner(options.config, options.overrides, count, gpu)
    report = planner.run()
    return tell(report, ConfigLines(options.config, options.overrides, getattr(planner, "config", None)), options.json)


def run_on_model(options: argparse.Namespace) -> int:
    """Examine a model alone, and print the report."""
    if options.overrides or options.processes is not None or options.gpus is not None:
        raise UserError("doctor --model looks at the model alone: --set, --processes and --gpus go with --config")
    from rich.console import Console

    from mmhicra.config import ModelConfig
    from mmhicra.doctor.lines import ConfigLines
    from mmhicra.doctor.model_doctor import ModelDoctor

    with Console(stderr=True).status("checking") as status:
        report = ModelDoctor(ModelConfig(path=options.model), lambda title, done, total: status.update(title)).run()
    return tell(report, ConfigLines("your configuration", ()), options.json)


def tell(report: Report, lines: ConfigLines, as_json: bool) -> int:
    """Print the report; returns the exit status."""
    from rich.console import Console

    from mmhicra.doctor.terminal import as_dict, show_report

    if as_json:
        print(json.dumps(as_dict(report, lines), indent=1))
    else:
        show_report(report, lines, Console())
    return 0 if report.healthy else FAULTY
