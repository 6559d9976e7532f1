"""What a data set is understood as, without a run: preset, columns, a few prompts, refused rows, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from mmhicra.config import GENERATED_SOURCES, DataConfig, RewardConfig, RunConfig
from mmhicra.core.errors import UserError
from mmhicra.core.records import Problem
from mmhicra.data.dataset import check_problems, name_problems, training_pool
from mmhicra.data.layouts import ANY_LAYOUT
from mmhicra.data.presets import choose_reader
from mmhicra.data.refused import RefusedRow
from mmhicra.data.sources import find_source
from mmhicra.data.text import printable
from mmhicra.rewards.golds import gold_problem
from mmhicra.rewards.grounding import load_grounding
from mmhicra.rewards.workers import Verifier
from mmhicra.vlm.processing import PromptBuilder

SHOWN = 3
"""Problems that are shown whole."""


@dataclass(frozen=True)
class Picture:
    """An image of a problem that is shown.

    Attributes:
        size: (width, height) in pixels as it comes, and `shown` as the model gets it, None without a model.
        tokens: of the model, None without one.
    """

    name: str
    size: tuple[int, int]
    shown: tuple[int, int] | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Example:
    """One problem as the model is asked: the rendered prompt, or roles and text without a model."""

    problem: Problem
    prompt: str
    pictures: Sequence[Picture]
    tokens: int | None = None


@dataclass(frozen=True)
class Spread:
    """Of some numbers the least, the median and the largest."""

    what: str
    least: float
    middle: float
    most: float

    def __str__(self) -> str:
        return f"{self.what}: {self.least:g} at least, {self.middle:g} in the median, {self.most:g} at most"


@dataclass(frozen=True)
class Preview:
    """One source as it is understood.

    Attributes:
        name: in `data.sources`; empty for the one source.
        why: how the preset was found.
        roles: role -> its columns.
        unused: columns that nothing reads.
        limit: rows that were read at most, None for all.
    """

    name: str
    source: str
    preset: str
    why: str
    roles: dict[str, str]
    unused: Sequence[str]
    notes: Sequence[str]
    used: int
    refused: Sequence[RefusedRow]
    spreads: Sequence[Spread]
    examples: Sequence[Example]
    limit: int | None = None

    @property
    def kinds(self) -> dict[str, list[RefusedRow]]:
        """The refused rows by what is wrong with them, the most frequent first."""
        kinds: dict[str, list[RefusedRow]] = {}
        for row in self.refused:
            kinds.setdefault(row.kind, []).append(row)
        return dict(sorted(kinds.items(), key=lambda found: -len(found[1])))


def preview_data(config: RunConfig, builder: PromptBuilder | None, limit: int | None) -> list[Preview]:
    """Read the first rows of every source as training would.

    Args:
        config: its sections `data` and `reward`, and the seed.
        builder: renders and measures prompts; without one they are shown as roles and text.
        limit: rows of each source at most.

    Raises:
        UserError: a source cannot be read, or its columns not be understood.
    """
    with Verifier(config.reward.workers, config.reward.time_limit) as verifier:
        return [
            _preview(name, part, config.seed, config.rewards()[name], builder, verifier, limit)
            for name, part in config.data.parts().items()
        ]


def _preview(
    name: str,
    data: DataConfig,
    seed: int,
    reward: RewardConfig,
    builder: PromptBuilder | None,
    verifier: Verifier,
    limit: int | None,
) -> Preview:
    rows = min(filter(None, (limit, data.limit)), default=None)
    data = data.model_copy(update={"limit": rows})
    pool = name_problems(training_pool(data, seed, not reward.reads_gold), name)
    sizes: dict[str, int] = {}

    def measure(problem: Problem) -> None:
        assert builder is not None
        builder.check(problem)
        sizes[problem.id] = builder.measure(problem).tokens

    def judge(problem: Problem) -> str | None:
        for term in load_grounding(reward.terms):
            term.gold_boxes(problem)
        return gold_problem(problem, verifier) if reward.reads_gold else None

    good, bad = check_problems(pool.problems, [judge, *([measure] if builder else [])])
    refused = sorted([*pool.refused, *bad], key=lambda row: (row.source, row.row))
    roles, unused = _columns(data, not reward.reads_gold)
    return Preview(
        name=name,
        source=data.source,
        preset=pool.preset,
        why=_why(data, pool.preset),
        roles=roles,
        unused=unused,
        notes=[note for note in pool.notes if not note.startswith("columns that nothing reads")],
        used=len(good),
        refused=refused,
        spreads=list(_spreads(good, sizes)),
        examples=[_example(problem, builder, name, data) for problem in good[:SHOWN]],
        limit=rows,
    )


def _columns(data: DataConfig, raw: bool) -> tuple[dict[str, str], list[str]]:
    """Role -> its columns, and the columns that nothing reads."""
    if data.source in GENERATED_SOURCES:
        return {}, []
    table = find_source(data.source).table(data.split)
    reader = choose_reader(data.preset, data.columns, table, data.image_folder, "", data.choice_answer, raw)
    layout = reader.layout
    roles = {role: ", ".join(columns) for role, columns in reader.columns.items() if columns}
    for role, column in (("context", layout.context), ("system turn", layout.system), ("unit", layout.unit)):
        if column and column in table.columns:
            roles[role] = column
    facts = [column for column in (*layout.facts, *data.columns.facts) if column.split(".")[0] in table.columns]
    if facts:
        roles["facts"] = ", ".join(facts)
    named = [column.split(".")[0] for columns in roles.values() for column in columns.split(", ")]
    read = {*named, *data.columns.unused}
    return roles, [printable(column) for column in table.columns if column not in read]


def _why(data: DataConfig, preset: str) -> str:
    if data.source in GENERATED_SOURCES:
        return "its problems are drawn"
    if data.preset != "auto":
        return "as data.preset says"
    layout = ANY_LAYOUT[preset]
    if preset == "columns":
        return "by data.columns alone"
    marks = ", ".join(layout.marks or layout.question)
    return f"by its columns {marks}" + (", with a list of turns in it" if layout.chat and not layout.marks else "")


def _spreads(problems: Sequence[Problem], tokens: dict[str, int]) -> Iterable[Spread]:
    if not problems:
        return
    images = [image for problem in problems for image in problem.images]
    numbers: dict[str, list[int]] = {
        "characters of a question": [len(problem.question) for problem in problems],
        "tokens of a prompt": [tokens[problem.id] for problem in problems if problem.id in tokens],
        "images of a row": [len(problem.images) for problem in problems],
    }
    sizes = [image.size() for image in images]
    numbers |= {"pixels of an image, across": [w for w, _ in sizes], "pixels of an image, down": [h for _, h in sizes]}
    for what, values in numbers.items():
        if values:
            yield Spread(what, min(values), median(values), max(values))


def _example(problem: Problem, builder: PromptBuilder | None, name: str, data: DataConfig) -> Example:
    raw = [Picture(image.reference, image.size()) for image in problem.images]
    if builder is None:
        system = problem.system or data.system_prompt
        user = "\n".join(text for text in (problem.question, data.instruction) if text)
        return Example(problem, (f"system: {system}\n" if system else "") + f"user: {user}", raw)
    try:
        size, prompt = builder.measure(problem), builder.build(problem)
    except UserError as refusal:  # cannot be: it was checked
        return Example(problem, str(refusal), raw)
    shown = [
        Picture(image.name, image.size, (new.new_width, new.new_height), new.tokens)
        for image, new in zip(raw, size.images, strict=True)
    ]
    return Example(problem, builder.processor.tokenizer.decode(prompt.ids), shown, size.tokens)
