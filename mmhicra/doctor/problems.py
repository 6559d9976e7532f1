"""The configured data, read as training reads it: which rows are refused, and for what."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmhicra.config import RunConfig
from mmhicra.config.data import NOT_READ
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.dataset import Loaded, load_problems, refuse_without_images
from mmhicra.data.refused import RefusedRow, refuse_if_too_many, summarise_refused
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.doctor.lines import named_field
from mmhicra.rewards.golds import gold_problem
from mmhicra.rewards.workers import Verifier
from mmhicra.vlm.processing import PromptBuilder, PromptSize

SHOWN = 8
"""Rows of a list on the terminal; `--json` has all of them."""

Progress = Callable[[int, int], None]


@dataclass
class Reader:
    """Reads the problems of a run and remembers what its checks saw.

    Attributes:
        builder: None if the processor could not be loaded; lengths are then not checked.
        verifier: decides whether a gold can be used.
        loaded: the problems, None before `read` or if there are none.
        sizes: prompt sizes by problem id.
        long: those that exceed `data.max_prompt_tokens`.
        golds: problem id -> why its gold cannot be used.
    """

    config: RunConfig
    builder: PromptBuilder | None
    verifier: Verifier
    loaded: Loaded | None = None
    sizes: dict[str, PromptSize] = field(default_factory=dict)
    long: dict[str, Problem] = field(default_factory=dict)
    golds: dict[str, str] = field(default_factory=dict)

    def read(self, progress: Progress | None = None) -> Loaded:
        """Read everything, however much is refused.

        Raises:
            DataError: the source cannot be read, or none of its rows can be used.
        """
        lenient = self.config.data.model_copy(update={"max_refused_share": 1.0})
        checks = [self._gold, *([self._length] if self.builder else [])]
        held_out = self.config.eval.problems
        self.loaded = load_problems(
            lenient, self.config.seed, checks, held_out=held_out, raw=self.raw, progress=progress
        )
        return self.loaded

    @property
    def raw(self) -> set[str]:
        """Sources in which no term of the reward reads golds."""
        return {name for name, reward in self.config.rewards().items() if not reward.reads_gold}

    def _gold(self, problem: Problem) -> str | None:
        if problem.dataset in self.raw:
            return None
        reason = gold_problem(problem, self.verifier)
        if reason is not None:
            self.golds[problem.id] = reason
        return reason

    def _length(self, problem: Problem) -> str | None:
        assert self.builder is not None
        size = self.builder.measure(problem)
        self.sizes[problem.id] = size
        limit = self.config.data.max_prompt_tokens
        if size.tokens <= limit:
            return None
        self.long[problem.id] = problem
        return f"{size.tokens} prompt tokens exceed data.max_prompt_tokens ({limit})"

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt that is trained or evaluated on."""
        used = [size.tokens for id, size in self.sizes.items() if id not in self.long]
        return max(used, default=self.config.data.max_prompt_tokens)

    @property
    def most_image_tokens(self) -> int:
        """Tokens of the images of one prompt, at most."""
        used = [size.image_tokens for id, size in self.sizes.items() if id not in self.long]
        return max(used, default=self.config.data.max_prompt_tokens)

    @property
    def held_out(self) -> int:
        """Problems that can be evaluated."""
        return len(self.loaded.held_out) if self.loaded else 0

    def rows_of(self, ids: Sequence[str]) -> list[RefusedRow]:
        """The refused rows of these problems."""
        known = set(ids)
        return [row for row in (self.loaded.refused if self.loaded else ()) if row.id in known]


def check_data(reader: Reader, progress: Progress | None = None) -> CheckResult:
    """Read the data, and judge what is refused as training would; golds are judged by `check_golds`."""
    config, check = reader.config, CheckResult("data", "Data")
    try:
        loaded = reader.read(progress)
    except DataError as refusal:
        check.passable = False
        _blame_long(check, reader)
        if not check.faults:
            check.blame("unreadable data", str(refusal), _remedy_of(str(refusal)))
        return check
    rows = len(loaded.train) + len(loaded.held_out) + len(loaded.refused)
    check.facts = {
        "source": config.data.title,
        "preset": loaded.preset,
        "train": len(loaded.train),
        "held_out": len(loaded.held_out),
        "refused": [vars(row) for row in loaded.refused],
    }
    lengths = sorted(size.tokens for id, size in reader.sizes.items() if id not in reader.long)
    if lengths:
        check.facts["prompt_tokens"] = {"median": lengths[len(lengths) // 2], "longest": lengths[-1]}
        prompts = f"; prompts of {lengths[len(lengths) // 2]} tokens in the median, {lengths[-1]} at most"
    else:
        prompts = "; prompt lengths not looked at, because the processor could not be loaded"
    check.summary = (
        f"{config.data.title} ({loaded.preset}): {len(loaded.train)} problems to train on, {len(loaded.held_out)} "
        f"held out, {len(loaded.refused)} of {rows} refused{prompts}"
    )
    others = [row for row in loaded.refused if row.id not in reader.golds]
    if others:
        check.grids = [_list_rows("refused rows", others)]
    too_many = too_many_refused(reader)
    if too_many and others:
        _blame_long(check, reader)
        broken = [row for row in others if row.id not in reader.long]
        for kind in summarise_refused(broken):
            first = next(row for row in broken if row.where in kind)
            check.blame("unreadable data", f"{kind}: {first.reason}", *_ways_around(reader, first.where))
    elif others:
        check.notes += [f"refused and left out: {line}" for line in summarise_refused(others)]
    check.notes += loaded.notes
    try:
        refuse_without_images(loaded, config.data)
    except DataError as refusal:
        check.blame(
            "no images",
            str(refusal),
            Remedy("data.columns.images", words="the column that holds the images"),
            Remedy("data.columns.images", NOT_READ, words="trains on text alone"),
        )
    if len(loaded.train) < config.train.prompts_per_step:
        check.blame(
            "too few problems",
            f"{len(loaded.train)} problems to train on are fewer than a step takes",
            Remedy("train.prompts_per_step", len(loaded.train)),
        )
    return check


def _remedy_of(message: str) -> Remedy:
    """What to write for a source that cannot be read: the columns that the message proposes, if it does."""
    proposed = dict(re.findall(r"data\.columns\.(\w+) \(perhaps (.+?)\)", message))
    if proposed:
        return Remedy("data.columns", proposed, words="or other columns of those listed")
    field = named_field(message) or "data.source"
    return Remedy(field, words="a column of those listed" if "its columns are" in message else "data that can be read")


def too_many_refused(reader: Reader) -> bool:
    """Whether training would be refused before it starts."""
    allowed = reader.config.data.max_refused_share
    for name, rows, used in reader.loaded.shares if reader.loaded else ():
        try:
            refuse_if_too_many(name, rows, used, allowed)
        except DataError:
            return True
    return False


def smallest_share(reader: Reader) -> float:
    """`data.max_refused_share` that would let this data pass, rounded up to a thousandth."""
    shares = [
        len(rows) / (len(rows) + used) for _, rows, used in (reader.loaded.shares if reader.loaded else ()) if rows
    ]
    return -(-max(shares, default=0.0) * 1000 // 1) / 1000


def list_golds(reader: Reader) -> Grid:
    """Every gold that cannot be used."""
    return _list_rows("golds that do not score 1", reader.rows_of(list(reader.golds)))


def _list_rows(title: str, rows: Sequence[RefusedRow]) -> Grid:
    shown = [(row.where, row.reason) for row in rows[:SHOWN]]
    if len(rows) > SHOWN:
        shown.append(("...", f"and {len(rows) - SHOWN} more (--json lists them)"))
    return Grid(title, ("row", "why"), shown)


def _blame_long(check: CheckResult, reader: Reader) -> None:
    """Prompts over the limit, in one fault."""
    if not reader.long:
        return
    config = reader.config
    id, problem = max(reader.long.items(), key=lambda pair: reader.sizes[pair[0]].tokens)
    size = reader.sizes[id]
    needed = size.tokens
    budget = needed + config.rollout.max_new_tokens
    more = (
        f"train.tokens_per_micro_batch: {budget} or more as well"
        if budget > config.train.tokens_per_micro_batch
        else None
    )
    check.blame(
        "prompt over length",
        f"{len(reader.long)} prompts exceed data.max_prompt_tokens ({config.data.max_prompt_tokens}); the longest, "
        f"{problem.source or id}, has {size.tokens} tokens, {size.image_tokens} of them image",
        Remedy("data.max_prompt_tokens", needed, words=more),
        *([Remedy("data.max_pixels", words="a lower limit")] if size.image_tokens > size.text_tokens else []),
        *(_ways_around(reader, problem.source)[1:] if reader.loaded else ()),
    )


def _ways_around(reader: Reader, where: str) -> list[Remedy]:
    """Mend the row, or train without it."""
    return [
        Remedy(words=f"mend {where}"),
        Remedy("data.max_refused_share", smallest_share(reader), words="trains without them"),
    ]
