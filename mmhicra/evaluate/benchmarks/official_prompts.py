"""The prompts that language models judge these benchmarks with, read out of the installed lmms-eval.

They are not repeated here. lmms-eval is not imported either: its modules build a client with an API key on import. Its
source files are parsed, and the one constant that is wanted is taken.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from mmhicra.core.errors import UserError

_PLACES = {
    "extract": ("tasks/mathvista/mathvista_evals.py", "DEMO_PROMPT"),
    "judge": ("llm_judge/prompt.py", "BINARY_JUDGE_PROMPT"),
}


@cache
def official_prompt(kind: str) -> str:
    """MathVista's examples of reading an answer out (`extract`), or lmms-eval's yes-or-no judge (`judge`).

    Raises:
        UserError: lmms-eval is not installed, or not a version that has the prompt where 0.7.3 has it.
    """
    package = importlib.util.find_spec("lmms_eval")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "the judge mode official takes its prompts from lmms-eval, which is not installed: "
            "pip install --no-deps lmms-eval==0.7.3, or use --judge-mode local"
        )
    file, name = _PLACES[kind]
    path = Path(next(iter(package.submodule_search_locations))) / file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            value = ast.literal_eval(node.value)
            if isinstance(value, str):
                return value
    raise UserError(f"the installed lmms-eval has no {name} in {file}: install lmms-eval==0.7.3")
