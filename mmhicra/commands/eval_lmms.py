"""lmms-eval behind `mmhicra eval`: `--backend lmms-eval`, and `eval parity`."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmhicra.config import RunConfig
    from mmhicra.evaluate.offline import Evaluated, Watcher

KNOWN_VERSION = "0.7.3"
INSTALL = 'pip install "mmhicra[lmms]" and then pip install --no-deps lmms-eval==' + KNOWN_VERSION


def add_parity(kinds: Any) -> None:
    """Add `eval parity`, which `tools/lmms_parity` of a checkout does."""
    parser = kinds.add_parser(
        "parity",
        help="lmms-eval's own tasks beside our scorer, on the same responses (in a checkout)",
        add_help=False,
        prefix_chars="+",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)  # other prefix characters: options are handed on, too
    parser.set_defaults(run=run_parity)


def run_parity(options: argparse.Namespace) -> int:
    """Hand everything on to `python -m tools.lmms_parity`.

    Raises:
        UserError: the comparison is not part of an installed wheel.
    """
    from mmhicra.core.errors import UserError
    from mmhicra.core.resources import checkout

    root = checkout()
    if root is None or not (root / "tools" / "lmms_parity").is_dir():
        raise UserError(
            "eval parity: the comparison with lmms-eval's own tasks is not part of the installed package: "
            "clone the repository, and run `python -m tools.lmms_parity` in it"
        )
    sys.path.insert(0, str(root))
    from tools.lmms_parity.__main__ import main

    return main(options.arguments, prog="mmhicra eval parity")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the options of the backend to `mmhicra eval`."""
    parser.add_argument(
        "--backend", choices=("mmhicra", "lmms-eval"), default="mmhicra", help="what drives engine and scorer"
    )
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of lmms-eval, that score at a time")


def evaluate(
    config: RunConfig, folder: Path, watcher: Watcher, options: argparse.Namespace, choices: Mapping[str, Any]
) -> list[Evaluated]:
    """`mmhicra eval --backend lmms-eval`.

    Args:
        config: what is evaluated, and how.
        folder: where everything goes.
        watcher: shows progress.
        options: of the command line.
        choices: `name`, `overwrite` and `checkpoint` of `evaluate_through_lmms`.

    Raises:
        UserError: lmms-eval is not there, or cannot do what is asked.
    """
    from mmhicra.core.errors import ConfigError

    require_lmms_eval()
    if options.judge is not None:
        raise ConfigError("--backend lmms-eval scores by rules alone: drop --judge, or judge its responses afterwards")
    _quieten()
    from mmhicra.evaluate.lmms.driver import evaluate_through_lmms

    return evaluate_through_lmms(config, folder, watcher, threads=options.threads, **choices)


def require_lmms_eval(exactly: bool = False) -> None:
    """Refuse to go on without lmms-eval.

    Args:
        exactly: the version whose defects are known is needed.

    Raises:
        UserError: it is not installed, is another version, or lacks packages it imports.
    """
    from mmhicra.core.errors import UserError

    try:
        installed = version("lmms-eval")
    except PackageNotFoundError:
        raise UserError(f"lmms-eval is not installed: {INSTALL}") from None
    missing = [name for name in ("evaluate", "loguru", "sacrebleu", "pytablewriter") if find_spec(name) is None]
    if missing:
        raise UserError(f"lmms-eval lacks {', '.join(missing)}: {INSTALL}")
    if exactly and installed != KNOWN_VERSION:
        raise UserError(f"lmms-eval {installed} has other defects than those known of {KNOWN_VERSION}: {INSTALL}")


def _quieten() -> None:
    """lmms-eval logs every step; warnings and errors are enough."""
    import datasets
    from loguru import logger

    datasets.disable_progress_bars()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
