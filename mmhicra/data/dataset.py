"""The problems of a run: read, checked one by one, and split into training and held-out.

Held-out problems come from the first of these that there is:

1. `data.eval_source`, its `data.eval_split` (else its `val`, `validation` or `test`);
2. `data.eval_split` of the source;
3. the source's own split `val` or `validation` (a `test` split is only used when named);
4. `data.held_out_share` of the training rows, those whose id has the smallest SHA-256.

Of these, `eval.problems` are used, chosen by the SHA-256 of their ids.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from mmhicra.config import GENERATED_SOURCES, DataConfig
from mmhicra.config.data import NOT_READ
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.images import describe_images, refuse_broken_images
from mmhicra.data.presets import choose_reader
from mmhicra.data.refused import RefusedRow, refuse_if_too_many, start_of, write_refused
from mmhicra.data.rows import Table
from mmhicra.data.sources import find_source
from mmhicra.data.text import shorten

Check = Callable[[Problem], str | None]
"""A function that says why a problem cannot be used, None if it can. Raising DataError says the same."""
Progress = Callable[[int, int], None]
"""A function that is told how many problems are checked, of how many."""

OWN_VALIDATION = ("val", "validation")


@dataclass(frozen=True)
class Loaded:
    """The problems of a run, and every row that is not used.

    Attributes:
        preset: the layout the training rows were read by, e.g. what `auto` found.
        notes: what a person should know about how the rows were read, a line each.
        columns: of the training rows, of all sources.
        shares: what is judged by `data.max_refused_share`: name of a source, its refused rows, and how many are used.
    """

    train: list[Problem]
    held_out: list[Problem]
    refused: list[RefusedRow]
    preset: str
    shares: Sequence[tuple[str, list[RefusedRow], int]] = ()
    notes: Sequence[str] = ()
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Pool:
    """The rows of one split, read and not yet checked; `table` is None for generated problems."""

    name: str
    preset: str
    problems: list[Problem] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    table: Table | None = None
    notes: Sequence[str] = ()


def load_problems(
    data: DataConfig,
    seed: int,
    checks: Sequence[Check] = (),
    *,
    held_out: int = 0,
    raw: Iterable[str] = (),
    refused_path: Path | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Read, check and split the problems of a run.

    Args:
        data: the `data` section of the configuration.
        seed: what generated problems are drawn from.
        checks: what a problem must pass besides having whole images, e.g. a gold answer the reward can use.
        held_out: how many held-out problems are wanted (`eval.problems`); 0 holds nothing out. Several sources have
            them in proportion to their weights, at least one each.
        raw: names of `data.sources` (of a single source: empty) in which no term of the reward reads golds.
        refused_path: where `refused.jsonl` is written, also if this raises for too many refused rows.
        progress: told after every checked problem.

    Raises:
        DataError: a source, split or column is missing, or too many rows of a source cannot be used.
    """
    parts = data.parts()
    counts = _divide(held_out, data.shares()) if data.sources else {"": held_out}
    pools = {name: _pools(part, name, seed, counts[name], name in {*raw}) for name, part in parts.items()}
    total = sum(len(train.problems) + min(counts[name], len(tests.problems)) for name, (train, tests) in pools.items())
    done, seen, loaded = 0, Counter[str](), []

    def check(pool: Pool, enough: int | None = None) -> tuple[list[Problem], list[RefusedRow]]:
        told = partial(_tell, progress, done, total) if progress else None
        good, bad = check_problems(pool.problems, checks, enough=enough, progress=told, seen=seen)
        return good, sorted([*pool.refused, *bad], key=_place)

    for name, (training, testing) in pools.items():
        train, refused = check(training)
        done += len(training.problems)
        tests, refused_tests = check(replace(testing, problems=sorted(testing.problems, key=_hash_of)), counts[name])
        done += min(counts[name], len(testing.problems))
        loaded.append(_loaded(training, testing, train, tests, refused, refused_tests))
    whole = _joined(loaded, list(parts), describe_images(seen))
    if refused_path is not None:
        write_refused(refused_path, whole.refused)
    listed = f"; all are listed in {refused_path}" if refused_path else ""
    for name, rows, used in whole.shares:
        refuse_if_too_many(name, rows, used, data.max_refused_share, listed)
    for one, (training, _) in zip(loaded, pools.values(), strict=True):
        if not one.train:
            raise DataError(f"{training.name} leaves no problem to train on: add rows, or lower data.held_out_share")
    return whole


def _tell(progress: Progress, before: int, total: int, number: int) -> None:
    progress(before + number, total)


def _divide(count: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`count` in proportion to the weights, by the largest remainders, and at least 1 for each unless it is 0."""
    whole = sum(weights.values())
    exact = {name: count * weight / whole for name, weight in weights.items()}
    parts = {name: int(part) for name, part in exact.items()}
    spare = count - sum(parts.values())
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[:spare]:
        parts[name] += 1
    return {name: max(part, min(count, 1)) for name, part in parts.items()}


def _pools(data: DataConfig, name: str, seed: int, held_out: int, raw: bool) -> tuple[Pool, Pool]:
    """What one source has to train on and to hold out, not yet checked."""
    training = training_pool(data, seed, raw)
    testing = _held_out_pool(data, seed, held_out, training, raw)
    if testing is None:
        training, testing = split_off(training, data.held_out_share)
    return name_problems(training, name), name_problems(testing, name)


def name_problems(pool: Pool, name: str) -> Pool:
    """The pool of one of several sources: its problems know it, and no id of another source is like theirs.

    Ids of generated problems stay, because by them a problem can be drawn again. The one source of a run has no name.
    """
    if not name:
        return pool
    before = f"{name}/" if pool.table else ""
    problems = [replace(problem, id=f"{before}{problem.id}", dataset=name) for problem in pool.problems]
    refused = [replace(row, id=f"{name}/{row.id}") for row in pool.refused]
    return replace(pool, problems=problems, refused=refused)


def _loaded(
    training: Pool,
    testing: Pool,
    train: list[Problem],
    tests: list[Problem],
    refused: list[RefusedRow],
    refused_tests: list[RefusedRow],
) -> Loaded:
    """What one source gave."""
    shares = [(training.name, refused, len(train)), (testing.name, refused_tests, len(tests))]
    if training.name == testing.name:
        shares = [(training.name, [*refused, *refused_tests], len(train) + len(tests))]
    notes = [*dict.fromkeys([*training.notes, *testing.notes])]
    columns = training.table.columns if training.table else ()
    return Loaded(train, tests, [*refused, *refused_tests], training.preset, shares, notes, columns)


def _joined(loaded: Sequence[Loaded], names: Sequence[str], notes: Sequence[str]) -> Loaded:
    """What all sources gave, in their order; of several sources, each preset and note says whose it is."""
    said = [f"{name}: " if name else "" for name in names]
    return Loaded(
        train=[problem for one in loaded for problem in one.train],
        held_out=[problem for one in loaded for problem in one.held_out],
        refused=[row for one in loaded for row in one.refused],
        preset=", ".join(name + one.preset for name, one in zip(said, loaded, strict=True)),
        shares=[share for one in loaded for share in one.shares],
        notes=[*(name + note for name, one in zip(said, loaded, strict=True) for note in one.notes), *notes],
        columns=[*dict.fromkeys(column for one in loaded for column in one.columns)],
    )


def refuse_without_images(loaded: Loaded, data: DataConfig) -> None:
    """Stop if no training problem of a source has an image, unless `data.columns.images: none` confirms that.

    Raises:
        DataError: names the setting and the columns there are.
    """
    for name, part in data.parts().items():
        if part.columns.images == NOT_READ or any(p.images for p in loaded.train if p.dataset == name):
            continue
        columns = f"; its columns are: {shorten(', '.join(loaded.columns), 1000)}" if loaded.columns else ""
        setting = f"columns.images of {name}" if name else "data.columns.images"
        raise DataError(
            f"{part.source}: no row has an image: set {setting} to the column that holds them, or to {NOT_READ} "
            f"to train on text alone{columns}"
        )


def check_problems(
    problems: Iterable[Problem],
    checks: Sequence[Check],
    *,
    enough: int | None = None,
    progress: Callable[[int], None] | None = None,
    seen: Counter[str] | None = None,
) -> tuple[list[Problem], list[RefusedRow]]:
    """Decode every image once and apply the checks; each problem is either used or refused with a reason.

    Args:
        problems: in the order they are checked.
        checks: applied in order, the first objection counts.
        enough: stop after so many good ones; the rest is neither used nor refused.
        progress: told how many are checked, after each.
        seen: see `refuse_broken_images`.

    Returns:
        The good problems, and the refused rows, each in the order given.
    """
    good: list[Problem] = []
    refused: list[RefusedRow] = []
    for number, problem in enumerate(problems, start=1):
        if enough is not None and len(good) >= enough:
            break
        reason = _objection(problem, (partial(refuse_broken_images, seen=seen), *checks))
        if reason is None:
            good.append(problem)
        else:
            source, row = _row_of(problem, number)
            refused.append(RefusedRow(source, row, problem.id, reason, start_of(problem.question)))
        if progress is not None:
            progress(number)
    return good, refused


def _objection(problem: Problem, checks: Sequence[Check]) -> str | None:
    """The first objection, on one line and without the problem's name, which the row has already."""
    for check in checks:
        try:
            reason = check(problem)
        except DataError as refusal:
            reason = str(refusal)
            if reason.startswith((f"problem {problem.id} ", f"problem {problem.id}:")):
                reason = reason.split(": ", 1)[-1]
        if reason is not None:
            return " ".join(reason.split())
    return None


def split_off(pool: Pool, share: float) -> tuple[Pool, Pool]:
    """Hold out the problems whose id has a SHA-256 in the lowest `share`, at least one: (rest, held out).

    Which side a problem is on depends on its id alone, not on the seed, the order or `eval.problems`.

    Raises:
        DataError: the share is 0.
    """
    if share == 0:
        raise DataError(
            f"{pool.name}: nothing to evaluate on: set data.eval_split, data.held_out_share above 0, "
            "or eval.problems to 0"
        )
    limit = max(share, min((_share_of(problem) for problem in pool.problems), default=0.0))
    rest = [problem for problem in pool.problems if _share_of(problem) > limit]
    kept = [problem for problem in pool.problems if _share_of(problem) <= limit]
    return replace(pool, problems=rest), replace(pool, problems=kept, refused=[])


def _hash_of(problem: Problem) -> str:
    return hashlib.sha256(problem.id.encode()).hexdigest()


def _share_of(problem: Problem) -> float:
    """The SHA-256 of the id as a number in [0, 1)."""
    return int(_hash_of(problem)[:13], 16) / 16**13


def training_pool(data: DataConfig, seed: int, raw: bool) -> Pool:
    """The training rows of one source, read and not yet checked.

    Raises:
        DataError: the source cannot be read, or its columns not be understood.
    """
    if data.source in GENERATED_SOURCES:
        return _generated_pool(data.source, "train", min(data.count, data.limit or data.count), seed, data)
    table = find_source(data.source).table(data.split)
    return _read_pool(table, data, table.split, data.limit, raw)


def _held_out_pool(data: DataConfig, seed: int, count: int, training: Pool, raw: bool) -> Pool | None:
    """Where held-out problems come from, None if they are a share of the training rows."""
    if count == 0:
        return Pool("nothing held out", training.preset)
    held_out = data.eval_source or data.source
    if held_out in GENERATED_SOURCES:
        if data.eval_split:
            raise DataError(f"data.eval_split is {data.eval_split}, but {held_out} has no splits: drop it")
        return _generated_pool(held_out, "held_out", count, seed, data)
    if data.eval_source:
        source = find_source(data.eval_source, "data.eval_source")
        known = [split for split in (*OWN_VALIDATION, "test") if split in source.splits]
        split = data.eval_split or next(iter(known), None)
        if split is None and not source.single:
            raise DataError(f"{source.name}: set data.eval_split to one of its splits: {', '.join(source.splits)}")
    else:
        source = find_source(data.source)
        if source.single and data.eval_split:
            raise DataError(
                f"data.eval_split is {data.eval_split}, but {source.name} has no splits: "
                "name another file in data.eval_source"
            )
        known = [split for split in OWN_VALIDATION if split in source.splits and split != data.split]
        split = data.eval_split or next(iter(known), None)
        if split is None or source.single:
            return None
    table = source.table(split or "")
    trained = training.table
    if trained and (trained.folder, trained.name) == (table.folder, table.name):
        raise DataError(f"{table.name} is both trained and evaluated on: name another split or eval_source")
    same_label = trained is not None and trained.split == table.split
    return _read_pool(table, data, f"held_out/{table.split}" if same_label else table.split, None, raw)


def _generated_pool(source: str, split: Literal["train", "held_out"], count: int, seed: int, data: DataConfig) -> Pool:
    from mmhicra.data.generated import ledger, visual_math

    generate = {"visual_math": visual_math.generate, "visual_ledger": ledger.generate}[source]
    return Pool(source, source, generate(split, count, seed, data.tasks if source == data.source else None))


def _read_pool(table: Table, data: DataConfig, label: str, limit: int | None, raw: bool = False) -> Pool:
    """Make every row of a table a problem or a refused row."""
    reader = choose_reader(data.preset, data.columns, table, data.image_folder, label, data.choice_answer, raw)
    unread = reader.watch()
    problems: dict[str, Problem] = {}
    refused: list[RefusedRow] = []
    for row in islice(table.rows(), limit):
        try:
            unread.inspect(row.cells, row.where)
            problem = reader.read(row)
            if problem.id in problems:
                raise DataError(
                    f"id twice: {problem.id}, first at {problems[problem.id].source}; data.columns.id: {NOT_READ} "
                    "numbers the rows"
                )
            problems[problem.id] = problem
        except DataError as reason:
            question = start_of(reader.question_of(row))
            refused.append(RefusedRow(row.source, row.number, reader.id_of(row), str(reason), question))
    unread.refuse(table.name)
    return Pool(table.name, reader.preset, list(problems.values()), refused, table, reader.notes)


def _row_of(problem: Problem, number: int) -> tuple[str, int]:
    """File and row of a problem; a generated one counts by its place."""
    source, _, row = problem.source.rpartition(":")
    return (source, int(row)) if row.isdigit() else (problem.source, number)


def _place(row: RefusedRow) -> tuple[str, int]:
    return row.source, row.row
