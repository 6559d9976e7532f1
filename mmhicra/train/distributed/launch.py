"""What a launcher (torchrun, accelerate) says of this process in the environment. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, all of them together."""
OTHERS = ("PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")
"""What launchers of MPI set, which accelerate goes by as well."""


def number_of(environment: Mapping[str, str], name: str, default: int) -> int:
    """A variable that is a whole number; the default if it is missing, or anything else."""
    text = environment.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def processes_of(environment: Mapping[str, str]) -> int:
    """How many processes the launcher has started; 1 without one."""
    return max(1, number_of(environment, "WORLD_SIZE", 1))


def speaks(environment: Mapping[str, str]) -> bool:
    """Whether this process prints: the first of those that were started, and one that is alone, whatever is left in
    the environment of it."""
    return processes_of(environment) == 1 or number_of(environment, "RANK", 0) == 0


def said_of(environment: Mapping[str, str]) -> str:
    """The variables of launchers that are set, for a message."""
    named = [f"{name}={environment[name][:40]}" for name in (*LAUNCHER, *OTHERS) if environment.get(name)]
    named += [f"{name}={value[:40]}" for name, value in sorted(environment.items()) if name.startswith("ACCELERATE_")]
    return ", ".join(named)
