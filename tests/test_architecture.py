"""The picture that the imports draw is that of docs/explanation/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import mmhicra

PACKAGE = Path(mmhicra.__file__).resolve().parent
ORDER = (
    *("core", "config", "rewards", "hicra", "data", "vlm", "rollout", "evaluate", "train", "mining"),
    *("analysis", "lab", "report", "doctor", "api", "commands", "cli", "__main__"),
)
"""From the ground up. `mmhicra` itself has the version and lazy names, and belongs to none."""
UPWARD = {("core", "hicra")}
"""`core.records` names the type of what the planning search puts into a completion; it does not import it when it runs.
This is the one arrow that may point up."""
MODELS_AND_ENGINES = {"torch.nn", "transformers", "vllm", "accelerate", "peft"}


class Import(NamedTuple):
    """Of a room by a file."""

    file: Path
    line: int
    room: str
    only_types: bool


def imports_of(file: Path) -> Iterator[Import]:
    """Every import of the package in a file, those inside functions too."""

    def look(node: ast.AST, only_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            types = only_types or (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Name)
                and node.test.id == "TYPE_CHECKING"
                and child in node.body
            )
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: imports are absolute"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
            for name in names:
                top, *parts = name.split(".")
                if top == "mmhicra" and parts and parts[0] in rooms():
                    yield Import(file, child.lineno, parts[0], types)
            yield from look(child, types)

    yield from look(ast.parse(file.read_text(encoding="utf-8")), False)


def rooms() -> set[str]:
    """The top level of the package: folders with code, and modules."""
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("**/*.py"))}
    return (folders | {path.stem for path in PACKAGE.glob("*.py")}) - {"__init__"}


def room_of(file: Path) -> str:
    top = file.relative_to(PACKAGE).parts[0]
    return top.removesuffix(".py")


@pytest.fixture(scope="module")
def arrows() -> dict[tuple[str, str], list[Import]]:
    """(from, to) -> the imports that draw the arrow."""
    found: dict[tuple[str, str], list[Import]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for each in imports_of(file):
            if each.room != room_of(file) and room_of(file) != "__init__":
                found.setdefault((room_of(file), each.room), []).append(each)
    return found


def test_every_room_stands_in_the_order_and_there_are_few():
    assert rooms() <= set(ORDER)
    assert len(rooms()) <= 22


def test_one_arrow_points_up_and_only_for_a_type(arrows):
    height = {room: number for number, room in enumerate(ORDER)}
    upward = {arrow: places for arrow, places in arrows.items() if height[arrow[0]] < height[arrow[1]]}
    assert set(upward) <= UPWARD, upward
    assert all(place.only_types for places in upward.values() for place in places), upward


def test_there_is_no_circle(arrows):
    below: dict[str, set[str]] = {}
    for (room, other), places in arrows.items():
        if not all(place.only_types for place in places):
            below.setdefault(room, set()).add(other)
    try:
        order = list(TopologicalSorter(below).static_order())
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")
    assert set(order) <= set(ORDER)


def test_hicra_and_rewards_import_neither_models_nor_engines(arrows):
    for room in ("hicra", "rewards"):
        assert {other for each, other in arrows if each == room} <= {"core", "config"}
        for file in (PACKAGE / room).rglob("*.py"):
            used = re.findall(r"^\s*(?:import|from) ([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert not {name for name in used for other in MODELS_AND_ENGINES if name.startswith(other)}, file


def test_the_package_imports_neither_tests_nor_tools_nor_benchmarks_where_there_are_none():
    """Two commands hand on to a checkout's, and refuse where there is none."""
    allowed = {"commands/bench.py": "benchmarks.__main__", "commands/eval_lmms.py": "tools.lmms_parity.__main__"}
    found = {}
    for file in PACKAGE.rglob("*.py"):
        used = re.findall(r"^\s*(?:import|from) ((?:tests|tools|benchmarks)\b[\w.]*)", file.read_text(), re.MULTILINE)
        found |= {str(file.relative_to(PACKAGE)): name for name in used}
    assert found == allowed


def test_files_and_functions_stay_short():
    root = PACKAGE.parent
    folders = [root / name for name in ("mmhicra", "benchmarks", "tools", "tests") if (root / name).is_dir()]
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{file}: {node.name} has {lines} lines"
