"""Every row is used or listed with its reason; splits and order depend on ids and the seed alone."""

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmhicra.config import DataConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.dataset import Loaded, check_problems, load_problems
from mmhicra.data.digest import digest_problems
from mmhicra.data.refused import RefusedRow, summarise_refused
from mmhicra.data.stream import ProblemStream

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "data.md"


def jpeg(seed: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).rotate(seed).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def text_rows(count: int, start: int = 0) -> list[dict]:
    return [{"id": n, "problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(start, start + count)]


def load(source: Path, held_out: int = 0, refused_path: Path | None = None, checks=(), **data) -> Loaded:
    config = DataConfig(source=str(source), **data)
    return load_problems(config, 0, checks, held_out=held_out, refused_path=refused_path)


def ids(problems: list[Problem]) -> list[str]:
    return [problem.id for problem in problems]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Good rows among one of each kind of bad ones."""
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:-400])
    (tmp_path / "note.jpg").write_text("not an image")
    packed = base64.b64encode(jpeg()[:-400]).decode()
    rows = [
        {"id": 0, "problem": "<image>fine?", "answer": "1", "images": ["good.jpg"]},
        {"id": 1, "problem": "<image>cut?", "answer": "1", "images": ["cut.jpg"]},
        {"id": 2, "problem": "<image>gone?", "answer": "1", "images": ["gone.jpg"]},
        {"id": 3, "problem": "<image>note?", "answer": "1", "images": ["note.jpg"]},
        {"id": 4, "problem": "no answer?", "answer": ""},
        {"id": 5, "problem": " ", "answer": "1"},
        {"id": 6, "problem": "<image> or <image>?", "answer": "1", "images": ["good.jpg"]},
        {"id": 0, "problem": "again?", "answer": "1"},
        '{"id": 8, "problem": "half\n',
        {"id": 9, "problem": "<image>packed?", "answer": "1", "images": [packed]},
        {"id": 10, "problem": "odd gold?", "answer": "\\boxed{1"},
        {"id": 11, "problem": "fine without an image?", "answer": "2"},
    ]
    return write(tmp_path / "train.jsonl", rows)


REASONS = [
    (2, "train/1", "image broken", "<image>cut?"),
    (3, "train/2", "image missing", "<image>gone?"),
    (4, "train/3", "image broken", "<image>note?"),
    (5, "train/4", "answer empty", "no answer?"),
    (6, "train/5", "question empty", ""),
    (7, "train/6", "placeholders unlike images", "<image> or <image>?"),
    (8, "train/0", "id twice", "again?"),
    (9, "train/9", "row unreadable", ""),
    (10, "train/9", "image broken", "<image>packed?"),
    (11, "train/10", "answer unusable", "odd gold?"),
]


def test_every_row_is_used_or_listed_with_its_reason(mixed):
    listed = mixed.parent / "run" / "refused.jsonl"
    loaded = load(mixed, refused_path=listed, max_refused_share=1.0)
    assert ids(loaded.train) == ["train/0", "train/11"]
    assert [(row.row, row.id, row.kind, row.question) for row in loaded.refused] == REASONS
    assert len(loaded.train) + len(loaded.refused) == 12
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [RefusedRow(**line) for line in lines] == loaded.refused
    assert {line["source"] for line in lines} == {f"{mixed.parent.name}/train.jsonl"}
    assert base64.b64encode(jpeg()).decode()[:40] not in listed.read_text()


def test_the_summary_counts_by_kind(mixed):
    lines = summarise_refused(load(mixed, max_refused_share=1.0).refused)
    where = f"{mixed.parent.name}/train.jsonl"
    assert lines[0] == f"3: image broken (first: {where}:2)"
    assert f"1: id twice (first: {where}:8)" in lines
    assert sum(int(line.split(":")[0]) for line in lines) == len(REASONS)


def test_too_many_refused_rows_stop_with_one_line_after_the_list_is_written(mixed):
    listed = mixed.parent / "refused.jsonl"
    with pytest.raises(DataError) as refusal:
        load(mixed, refused_path=listed, max_refused_share=0.5)
    name = f"{mixed.parent.name}/train.jsonl"
    assert str(refusal.value).startswith(
        f"{name}: 10 of 12 rows (83.3%) cannot be used, first {name}:2: image broken: cut.jpg ("
    )
    assert f"all are listed in {listed}" in str(refusal.value)
    assert "raise data.max_refused_share (now 0.5)" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(listed.read_text().splitlines()) == 10


@pytest.mark.parametrize(("allowed", "stops"), [(0.1, False), (0.09, True)])
def test_the_allowed_share_is_inclusive(allowed, stops, tmp_path):
    rows = [*text_rows(9), {"id": 9, "problem": "?", "answer": ""}]
    source = write(tmp_path / "train.jsonl", rows)
    if stops:
        with pytest.raises(DataError, match="1 of 10 rows"):
            load(source, max_refused_share=allowed)
    else:
        assert len(load(source, max_refused_share=allowed).train) == 9


def test_no_usable_row_always_stops(tmp_path):
    source = write(tmp_path / "train.jsonl", [{"problem": "?", "answer": ""}] * 3)
    with pytest.raises(DataError, match="none of its 3 rows can be used, first .*train.jsonl:1: answer empty"):
        load(source, max_refused_share=1.0)


def test_checks_of_later_rooms_refuse_by_reason_or_by_raising():
    problems = [Problem(str(n), f"{n}?", (), str(n), source=f"a.jsonl:{n}") for n in range(4)]

    def small(problem: Problem) -> str | None:
        return f"gold {problem.answer} is too large: take a smaller one" if problem.answer == "3" else None

    def short(problem: Problem) -> str | None:
        if problem.answer == "1":
            raise DataError("problem 1 (a.jsonl:1): 40 prompt tokens exceed data.max_prompt_tokens (7):\n raise it")
        return None

    told = []
    good, refused = check_problems(problems, [small, short], progress=told.append)
    assert ids(good) == ["0", "2"]
    assert [(row.where, row.reason) for row in refused] == [
        ("a.jsonl:1", "40 prompt tokens exceed data.max_prompt_tokens (7): raise it"),
        ("a.jsonl:3", "gold 3 is too large: take a smaller one"),
    ]
    assert refused[0].kind == "N prompt tokens exceed data.max_prompt_tokens (N)"
    assert told == [1, 2, 3, 4]


def test_a_bug_in_a_check_is_not_a_reason(tmp_path):
    source = write(tmp_path / "train.jsonl", text_rows(2))
    with pytest.raises(ZeroDivisionError):
        load(source, checks=[lambda problem: str(1 / 0)])


def test_the_limit_takes_the_first_rows(tmp_path):
    source = write(tmp_path / "train.jsonl", text_rows(9))
    assert ids(load(source, limit=3).train) == ["train/0", "train/1", "train/2"]


def test_relative_images_follow_image_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(jpeg())
    source = write(tmp_path / "train.jsonl", [{"problem": "?", "answer": "1", "images": ["a.jpg"]}])
    assert load(source, image_folder=str(tmp_path / "elsewhere")).train[0].images[0].open().size == (64, 64)
    with pytest.raises(DataError, match="image missing: a.jpg"):
        load(source)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_the_own_validation_split_is_held_out(name, tmp_path):
    write(tmp_path / "train.jsonl", text_rows(20))
    write(tmp_path / f"{name}.jsonl", text_rows(10))
    write(tmp_path / "test.jsonl", text_rows(10))
    loaded = load(tmp_path, held_out=6)
    assert ids(loaded.train) == [f"train/{n}" for n in range(20)]
    assert len(set(ids(loaded.held_out))) == 6
    assert all(problem.id.startswith(f"{name}/") for problem in loaded.held_out)
    assert ids(load(tmp_path, held_out=3).held_out) == ids(loaded.held_out)[:3]
    assert {i.split("/")[0] for i in ids(load(tmp_path, held_out=3, eval_split="test").held_out)} == {"test"}


def test_a_validation_split_that_is_trained_on_is_not_held_out_too(tmp_path):
    write(tmp_path / "val.jsonl", text_rows(40))
    write(tmp_path / "other.jsonl", text_rows(5))
    loaded = load(tmp_path, held_out=3, split="val", held_out_share=0.2)
    assert not set(ids(loaded.train)) & set(ids(loaded.held_out))
    assert {i.split("/")[0] for i in ids(loaded.train) + ids(loaded.held_out)} == {"val"}


def test_a_test_split_is_not_used_unless_named(tmp_path):
    write(tmp_path / "train.jsonl", text_rows(100))
    write(tmp_path / "test.jsonl", text_rows(10))
    assert all(problem.id.startswith("train/") for problem in load(tmp_path, held_out=5).held_out)


def test_held_out_rows_of_another_source_are_checked_and_listed_too(tmp_path):
    train = write(tmp_path / "a" / "train.jsonl", text_rows(5))
    other = write(tmp_path / "b" / "train.jsonl", [*text_rows(5), {"id": 7, "problem": "?", "answer": ""}])
    loaded = load(train, held_out=9, eval_source=str(other), max_refused_share=0.5)
    assert Counter(i.rsplit("/", 1)[0] for i in ids(loaded.held_out)) == {"held_out/train": 5}
    assert [(row.where, row.reason) for row in loaded.refused] == [("b/train.jsonl:6", "answer empty")]
    with pytest.raises(DataError, match="b/train.jsonl: 1 of 6 rows"):
        load(train, held_out=9, eval_source=str(other))
    assert load(train, held_out=0, eval_source=str(other)).held_out == []


def test_bad_held_out_rows_are_replaced_by_others(tmp_path):
    write(tmp_path / "train.jsonl", text_rows(5))
    write(tmp_path / "val.jsonl", text_rows(50))
    first, second = load(tmp_path, held_out=2).held_out

    def check(problem: Problem) -> str | None:
        return "gold unusable" if problem.id == first.id else None

    loaded = load(tmp_path, held_out=2, checks=[check], max_refused_share=1.0)
    assert len(loaded.held_out) == 2
    assert loaded.held_out[0] == second
    assert [row.id for row in loaded.refused] == [first.id]


def test_a_share_is_held_out_by_id_alone(tmp_path):
    rows = text_rows(400)
    source = write(tmp_path / "train.jsonl", rows)
    loaded = load(source, held_out=400, held_out_share=0.1)
    assert not set(ids(loaded.train)) & set(ids(loaded.held_out))
    assert len(loaded.train) + len(loaded.held_out) == 400
    assert 20 <= len(loaded.held_out) <= 60, "binomial: 40 with a standard deviation of 6"
    write(source, rows[::-1])
    again = load_problems(DataConfig(source=str(source), held_out_share=0.1), 7, held_out=5)
    assert set(ids(again.train)) == set(ids(loaded.train)), "neither order, seed nor eval.problems matters"
    assert ids(again.held_out) == ids(loaded.held_out)[:5]


def test_at_least_one_problem_is_held_out(tmp_path):
    source = write(tmp_path / "train.jsonl", text_rows(3))
    loaded = load(source, held_out=5, held_out_share=1e-9)
    assert (len(loaded.train), len(loaded.held_out)) == (2, 1)
    assert len(load(source, held_out=0, held_out_share=0.5).train) == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"held_out_share": 0.0}, "nothing to evaluate on"),
        ({"held_out_share": 1.0}, "leaves no problem to train on"),
        ({"eval_split": "train"}, "is both trained and evaluated on"),
        ({"eval_split": "dev"}, "has no split dev, it has: other, train"),
        ({"eval_source": "."}, "set data.eval_split to one of its splits: other, train"),
        ({"eval_source": "./train.jsonl"}, "is both trained and evaluated on"),
        ({"eval_source": "gone.jsonl"}, "data.eval_source: gone.jsonl does not exist"),
        ({"split": "val"}, "has no split val, it has: other, train"),
    ],
)
def test_contradictions_about_held_out_problems(data, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", text_rows(5))
    write(tmp_path / "other.jsonl", text_rows(5))
    with pytest.raises(DataError) as refusal:
        load(Path("."), held_out=3, **data)
    assert says in str(refusal.value)


def test_a_file_has_no_eval_split(tmp_path):
    source = write(tmp_path / "train.jsonl", text_rows(5))
    with pytest.raises(DataError, match=r"has no splits: name another file in data\.eval_source"):
        load(source, held_out=3, eval_split="val")


def test_generated_problems_need_no_files():
    data = DataConfig(count=12, tasks=["sum", "bars"])
    loaded = load_problems(data, 3, held_out=4)
    assert (len(loaded.train), len(loaded.held_out), loaded.refused) == (12, 4, [])
    assert {problem.task for problem in [*loaded.train, *loaded.held_out]} == {"sum", "bars"}
    again = load_problems(data, 3, held_out=4)
    assert digest_problems(again.train) == digest_problems(loaded.train)
    assert ids(again.held_out) == ids(loaded.held_out)
    with pytest.raises(DataError, match="visual_math has no splits"):
        load_problems(DataConfig(count=1, eval_split="val"), 3, held_out=4)


PROBLEMS = [Problem(str(n), f"{n}?", (), str(n)) for n in range(7)]


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(0, 12), st.integers(0, 3), st.booleans())
def test_a_resumed_stream_equals_one_that_never_stopped(takes, stop, seed, shuffle):
    through, before = ProblemStream(PROBLEMS, seed, shuffle), ProblemStream(PROBLEMS, seed, shuffle)
    whole = [ids(through.take(count)) for count in takes]
    parts = [ids(before.take(count)) for count in takes[:stop]]
    after = ProblemStream(PROBLEMS, seed, shuffle)
    after.restore(json.loads(json.dumps(before.state())))
    assert parts + [ids(after.take(count)) for count in takes[stop:]] == whole


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 3))
def test_each_epoch_is_a_permutation_of_its_own(takes, seed):
    stream = ProblemStream(PROBLEMS, seed)
    taken = [problem for count in takes for problem in stream.take(count)]
    assert len(taken) == sum(takes)
    epochs = [tuple(ids(taken[start : start + 7])) for start in range(0, len(taken), 7)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    # By whole epochs: where steps pass over what they have had, two epochs may come in one order.
    stream = ProblemStream(PROBLEMS, seed)
    assert len({tuple(ids(stream.take(7))) for _ in range(3)}) == 3, "each epoch has its own order"


@given(st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), max_size=10), st.integers(0, 3), st.booleans())
def test_no_problem_comes_twice_in_a_step(steps, seed, shuffle):
    """A step is one `take` and the refills after it; epochs stay whole, and a resumed stream goes on the same."""
    stream, taken = ProblemStream(PROBLEMS, seed, shuffle), []
    for first, *refills in steps:
        resumed = ProblemStream(PROBLEMS, seed, shuffle)
        resumed.restore(json.loads(json.dumps(stream.state())))
        step = [ids(stream.take(first)), *(ids(stream.refill(count)) for count in refills)]
        assert step == [ids(resumed.take(first)), *(ids(resumed.refill(count)) for count in refills)]
        had = [name for part in step for name in part]
        assert len(set(had)) == len(had) == min(7, first + sum(refills))
        taken += had
    epochs = [taken[start : start + 7] for start in range(0, len(taken), 7)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs), "within an epoch no problem comes twice"


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(0, 3))
def test_where_no_problem_would_come_twice_the_order_is_the_epoch_s(takes, seed):
    """The plain stream: epochs one after another, as long as no step would have a problem of both."""
    stream, order = ProblemStream(PROBLEMS, seed), []
    for epoch in range(13):
        order += np.random.default_rng([seed, epoch]).permutation(7).tolist()
    start = 0
    for count in takes:
        plain = order[start : start + count]
        if len(set(plain)) < count:
            break
        assert ids(stream.take(count)) == [str(place) for place in plain]
        start += count


def test_seeds_order_differently_and_no_shuffle_keeps_the_order():
    assert ids(ProblemStream(PROBLEMS, 0).take(7)) != ids(ProblemStream(PROBLEMS, 1).take(7))
    assert ids(ProblemStream(PROBLEMS, 0, shuffle=False).take(9)) == [*"0123456", "0", "1"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (ProblemStream(PROBLEMS[:6], 0), "problems"),
        (ProblemStream([*PROBLEMS[:6], Problem("6", "6?", (), "7")], 0), "problems"),
        (ProblemStream(PROBLEMS, 1), "seed"),
        (ProblemStream(PROBLEMS, 0, shuffle=False), "shuffle"),
    ],
)
def test_another_data_set_is_not_resumed(other, says):
    with pytest.raises(DataError, match=f"cannot resume: {says} of the training data changed"):
        ProblemStream(PROBLEMS, 0).restore(other.state())


def test_a_stream_needs_a_problem():
    with pytest.raises(DataError, match="no problem to train on"):
        ProblemStream([], 0)


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_the_configurations_of_the_documentation_are_valid(block):
    build_config(yaml.safe_load(block))


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_set" / "problems.jsonl", [blocks_of("json")[0]])
    (tmp_path / "my_set" / "images").mkdir()
    for n in range(3):
        (tmp_path / "my_set" / "images" / f"{n}.png").write_bytes(jpeg())
    (snippet,) = blocks_of("python")
    exec(compile(snippet, "docs/guides/data.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["geometry3k", "2", "1"]
    assert (tmp_path / "refused.jsonl").read_text() == ""
