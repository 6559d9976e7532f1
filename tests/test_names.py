"""Each list of names stands once, in `core.names`, and the table of the code that acts on them has exactly those."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import mmhicra
from mmhicra.core import names
from mmhicra.core.names import BenchmarkName, CreditMethod, EngineName, FamilyName
from mmhicra.core.resources import evaluation_path
from mmhicra.hicra.credit import METHODS
from mmhicra.rollout.engines import ENGINES
from mmhicra.vlm import family

PACKAGE = Path(mmhicra.__file__).parent


def literals(file: Path) -> list[frozenset[object]]:
    """The values of every `Literal[...]` of two or more in a file."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            found.append(frozenset(part.value for part in parts if isinstance(part, ast.Constant)))
    return [values for values in found if len(values) > 1]


def test_tables_have_the_names_of_the_configuration():
    assert METHODS.keys() == set(get_args(CreditMethod))
    assert ENGINES.keys() == set(get_args(EngineName))
    assert family.FAMILIES.keys() == set(get_args(FamilyName))
    assert {path.stem for path in evaluation_path("cards").glob("*.yaml")} == set(get_args(BenchmarkName))


def test_a_list_of_names_that_is_shared_stands_in_one_place():
    shared = {name: frozenset(get_args(value)) for name, value in vars(names).items() if get_args(value)}
    assert len(shared) > 10
    for file in PACKAGE.rglob("*.py"):
        if file != Path(names.__file__):
            found = literals(file)
            again = {name for name, values in shared.items() if values in found}
            assert not again, f"{file}: {again}"
