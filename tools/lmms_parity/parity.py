"""lmms-eval's own tasks beside our scorer, on the same responses; differences are put down to its known defects.

A defect's effect is measured, not guessed: the built-in task runs as it is, and once more with that defect mended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmhicra.core.errors import ConfigError, DataError, UserError
from mmhicra.evaluate.benchmarks.mathvista import extract_by_rules
from mmhicra.evaluate.benchmarks.registry import Benchmark, load_items, load_questions, load_responses, make_benchmark
from mmhicra.evaluate.lmms.questions import IMAGE_COLUMN, hub_form, save
from mmhicra.evaluate.scoring.records import Item, Mode, Response
from mmhicra.evaluate.scoring.score import score_pairs
from tools.lmms_parity import builtin as lmms_builtin

DEFECTS = {
    "D1": "MathVista's precision is a float on the hub, round() refuses it, and every float answer is wrong",
    "D2": "MathVision's scorer lost `from math import *`: an answer with sqrt or pi cannot be worked out and is wrong",
    "D3": "rows are scored in four threads, where math-verify's timeouts fail and every equivalence is wrong",
    "D4": "latex2sympy2 and math-verify need different antlr4 runtimes: a task that needs the missing one cannot run",
}
"""Of lmms-eval 0.7.3."""
_NOT_INSTALLED = re.compile(r"latex2sympy2|math_verify|math-verify|'is_number'|'find_math_answer'|'is_equal'")
"""What errors name where D4 bites."""

Extractor = Literal["stored", "rules", "judge"]


@dataclass(frozen=True)
class Builtin:
    """One of lmms-eval's own tasks.

    Attributes:
        name: of the task.
        benchmark: whose questions it asks; the name of its folder, too.
        split: its name for them.
        mode: ours that is meant to say the same.
        defects: that may bite and can be mended.
        asks: a language model reads the answers (`extraction`) or judges them (`verdict`).
    """

    name: str
    benchmark: str
    split: str
    mode: Mode
    defects: tuple[str, ...]
    asks: Literal["extraction", "verdict"] | None = None


BUILTINS = (
    Builtin("mathvista_testmini_cot", "mathvista", "testmini", "official", ("D1",), "extraction"),
    Builtin("mathvista_testmini_cot_reasoning", "mathvista", "testmini", "robust", ("D3",)),
    Builtin("mathverse_testmini", "mathverse", "testmini", "robust", (), "verdict"),
    Builtin("mathverse_testmini_reasoning", "mathverse", "testmini", "robust", ("D3",)),
    Builtin("mathvision_test", "mathvision", "test", "official", ("D2",)),
    Builtin("mathvision_reason_test_reasoning", "mathvision", "test", "robust", ("D3",)),
)


@dataclass(frozen=True)
class Effect:
    """What a defect does to one number.

    Attributes:
        defect: as in `DEFECTS`.
        labels: that it changes.
        points: what it takes from the score; None if it takes the number altogether.
    """

    defect: str
    labels: int
    points: float | None


@dataclass(frozen=True)
class Row:
    """One built-in task beside our scorer; scores are percentages.

    Attributes:
        task: its name.
        benchmark: its benchmark.
        rows: questions.
        theirs: its score, None where there is none.
        official: ours.
        robust: ours.
        mode: the one of ours that is compared.
        differ: labels that differ from ours.
        effects: of the defects that change something.
        rest: labels that still differ once the defects are mended.
        note: why there is no score.
    """

    task: str
    benchmark: str
    rows: int
    theirs: float | None
    official: float
    robust: float
    mode: Mode
    differ: int | None
    effects: tuple[Effect, ...]
    rest: int | None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a result file."""
        return asdict(self)


@dataclass(frozen=True)
class Setup:
    """How responses come about and who reads them.

    Attributes:
        responses: a file of them; None asks `model`.
        model: arguments of `EngineModel.load`.
        questions: their source; None takes those the response file carries.
        split: of the questions.
        images: what relative image paths are relative to.
        limit: only the first so many questions.
        extractor: who answers MathVista's extraction prompts: the extractions stored in the file, our rules, or the
            judge at `judge_url`.
        judge_url: of an OpenAI-compatible server, for lmms-eval's own judge.
        judge_model: what the judge is called there.
        latex2sympy2: a folder with latex2sympy2 1.9.1 and antlr4 4.7.2, for the one task that needs them.
    """

    responses: str | None = None
    model: Mapping[str, Any] | None = None
    questions: str | None = None
    split: str | None = None
    images: str | None = None
    limit: int | None = None
    extractor: Extractor = "rules"
    judge_url: str | None = None
    judge_model: str | None = None
    latex2sympy2: str | None = None


def compare(benchmark_name: str, setup: Setup) -> list[Row]:
    """One row per built-in task of a benchmark.

    Raises:
        ConfigError: lmms-eval has no tasks for the benchmark.
        DataError: questions or responses cannot be read.
        UserError: a built-in task could not be started.
    """
    if benchmark_name not in {builtin.benchmark for builtin in BUILTINS}:
        raise ConfigError(f"lmms-eval's tasks are compared for {', '.join(IMAGE_COLUMN)}, not for {benchmark_name}")
    source = setup.questions or setup.responses
    if source is None:
        raise ConfigError("name the questions that the model is to answer with --questions")
    benchmark = make_benchmark(benchmark_name)
    given = None if setup.responses is None else load_responses(benchmark, setup.responses)[0]
    items = _questions(benchmark, setup, given)
    found: list[Row] = []
    for builtin in BUILTINS:
        if builtin.benchmark == benchmark_name:
            rows = hub_form(benchmark_name, items, source, setup.split)
            with tempfile.TemporaryDirectory(prefix="mmhicra-parity-") as folder:
                data = str(save(rows, builtin.split, Path(folder, "questions")))
                found.append(_row(benchmark, builtin, items, given, setup, data))
    return found


def _questions(benchmark: Benchmark, setup: Setup, given: Sequence[Response] | None) -> list[Item]:
    """Those that are answered, in their own order; with their images if they are still to be."""
    if given is None:
        return load_questions(benchmark, setup.questions, setup.split, setup.images)[: setup.limit]
    ids = {response.id for response in given}
    items = load_items(benchmark, setup.questions or setup.responses, setup.split)
    answered = [item for item in items if item.id in ids]
    if not answered:
        raise DataError(f"{setup.responses} answers none of the questions: name their source with --questions")
    return answered[: setup.limit]


def _row(
    benchmark: Benchmark,
    builtin: Builtin,
    items: Sequence[Item],
    given: Sequence[Response] | None,
    setup: Setup,
    data: str,
) -> Row:
    job: dict[str, Any] = {"task": builtin.name, "folder": builtin.benchmark, "data": data, "extractions": None}
    if given is None:
        job |= {"responses": None, "model": dict(setup.model or {}), "runs": []}
        texts = _work(builtin, job, setup)["responses"]
        responses = [Response(item.id, text) for item, text in zip(items, texts, strict=True)]
    else:
        by_id = {response.id: response for response in given if not response.sample}
        responses = [by_id[item.id] for item in items]
    pairs = list(zip(items, responses, strict=True))
    labels = _our_labels(benchmark, builtin, pairs, setup)
    if builtin.asks == "verdict" and setup.extractor != "judge":
        return _silent(builtin, labels, "a language model judges here: give one with --extractor judge")
    if builtin.asks == "extraction" and setup.extractor != "judge":
        job["extractions"] = [_extraction(setup.extractor, item, response) for item, response in pairs]
    single = [[defect] for defect in builtin.defects]
    job |= {"responses": [response.text for response in responses], "runs": [[], *single]}
    return attribute(builtin, labels, _work(builtin, job, setup)["runs"])


def _our_labels(
    benchmark: Benchmark, builtin: Builtin, pairs: Sequence[tuple[Item, Response]], setup: Setup
) -> dict[Mode, list[bool]]:
    """Mode -> our verdicts, on the same reading of the response where a reading is given."""
    given = builtin.asks == "extraction" and setup.extractor == "stored"
    official = score_pairs(benchmark, pairs, "official", "equality" if given else "response")
    robust = score_pairs(benchmark, pairs, "robust")
    return {"official": [record.correct for record in official], "robust": [record.correct for record in robust]}


def attribute(builtin: Builtin, labels: Mapping[Mode, Sequence[bool]], runs: Sequence[Mapping[str, Any]]) -> Row:
    """Put the differences down to the defects."""
    plain, *mended = runs
    if plain["error"]:
        note = plain["error"]
        if _NOT_INSTALLED.search(note):
            return _silent(builtin, labels, note, (Effect("D4", len(labels["official"]), None),))
        return _silent(builtin, labels, note)
    ours, theirs = labels[builtin.mode], plain["labels"]
    effects: list[Effect] = []
    best = list(theirs)
    for one in mended:
        if one["error"]:
            raise UserError(f"{builtin.name} stopped with {one['mended'][0]} mended: {one['error']}")
        changed = [at for at, label in enumerate(one["labels"]) if label != theirs[at]]
        if changed:
            lost = sum(one["labels"]) - sum(theirs)
            effects.append(Effect(one["mended"][0], len(changed), -100 * lost / len(theirs)))
        for at in changed:
            best[at] = one["labels"][at]
    return Row(
        task=builtin.name,
        benchmark=builtin.benchmark,
        rows=len(theirs),
        theirs=_percent(theirs),
        official=_percent(labels["official"]),
        robust=_percent(labels["robust"]),
        mode=builtin.mode,
        differ=_differing(theirs, ours),
        effects=tuple(effects),
        rest=_differing(best, ours),
    )


def _silent(
    builtin: Builtin, labels: Mapping[Mode, Sequence[bool]], note: str, effects: tuple[Effect, ...] = ()
) -> Row:
    """A row without a number of theirs."""
    return Row(
        task=builtin.name,
        benchmark=builtin.benchmark,
        rows=len(labels["official"]),
        theirs=None,
        official=_percent(labels["official"]),
        robust=_percent(labels["robust"]),
        mode=builtin.mode,
        differ=None,
        effects=effects,
        rest=None,
        note=note,
    )


def _work(builtin: Builtin, job: Mapping[str, Any], setup: Setup) -> dict[str, Any]:
    """Run a job in a process of its own.

    Raises:
        UserError: the process failed.
    """
    environment = dict(os.environ)
    # lmms-eval makes its clients at import and refuses to without a key, also where nothing is asked of them.
    environment.setdefault("OPENAI_API_KEY", "EMPTY")
    environment |= {"API_TYPE": "openai", "USE_LLM_JUDGE": "False"}
    if setup.judge_url:
        environment |= {"OPENAI_API_URL": setup.judge_url, "MODEL_VERSION": setup.judge_model or "judge"}
    if setup.latex2sympy2 and builtin.name == "mathvision_test":
        paths = [str(Path(setup.latex2sympy2).resolve()), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory(prefix="mmhicra-parity-") as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-P", lmms_builtin.__file__, str(asked), str(answered)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"lmms-eval's task {builtin.name} could not be run: {last}")
        return json.loads(answered.read_text(encoding="utf-8"))


def _extraction(extractor: Extractor, item: Item, response: Response) -> str:
    if extractor == "rules":
        return extract_by_rules(item, response.text.strip()).text or ""
    if response.extraction is None:
        raise DataError(f"response {response.id} has no stored extraction: choose --extractor rules")
    return response.extraction


def _percent(labels: Sequence[bool]) -> float:
    return 100 * sum(labels) / len(labels)


def _differing(one: Sequence[bool], other: Sequence[bool]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
