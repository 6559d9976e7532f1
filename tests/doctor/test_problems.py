"""The doctor on data as people have it: what it blames, what it proposes, and where it doubts instead of ticking."""

import json

import pytest
from PIL import Image

from mmhicra.config.loading import build_config
from mmhicra.doctor.findings import Report
from mmhicra.doctor.golds import check_golds
from mmhicra.doctor.lines import ConfigLines
from mmhicra.doctor.pictures import check_images
from mmhicra.doctor.problems import Reader, check_data
from mmhicra.rewards.reward import Rewarder
from mmhicra.vlm.processing import ImageSize, PromptSize

ROW = {"problem": "How many?", "answer": "3", "image": "a.png"}


@pytest.fixture
def examine(tmp_path):
    """(rows, data, reward) -> the reader, and the checks of data and golds."""
    Image.new("RGB", (112, 84)).save(tmp_path / "a.png")

    def examined(rows, data=None, **reward):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = build_config(
            {
                "data": {"source": str(tmp_path / "train.jsonl"), **(data or {})},
                "reward": {"workers": 1, **reward},
                "eval": {"problems": 0},
                "train": {"prompts_per_step": 1},
            }
        )
        with Rewarder(config.reward, 100) as rewarder:
            reader = Reader(config, None, rewarder.verifier)
            data_check = check_data(reader)
            return reader, data_check, check_golds(reader, rewarder) if reader.loaded else None

    return examined


def test_columns_are_proposed_as_the_file_wants_them(examine, tmp_path):
    _, check, _ = examine([{"my_question": "?", "gold": "3", "picture": "a.png"}])
    (fault,) = check.faults
    (tmp_path / "run.yaml").write_text("data:\n  source: train.jsonl\n")
    shown = ConfigLines(str(tmp_path / "run.yaml"), []).show(fault.remedies[0])
    assert shown == (
        f"{tmp_path / 'run.yaml'}:1, add under data: columns: {{question: my_question, answer: gold}}; "
        "or other columns of those listed"
    )


def test_a_run_without_images_is_a_fault_unless_confirmed(examine):
    text = {"problem": "1 + 1?", "answer": "2"}
    _, check, _ = examine([text])
    (fault,) = check.faults
    assert (fault.kind, fault.remedies[1].field, fault.remedies[1].value) == (
        "no images",
        "data.columns.images",
        "none",
    )
    reader, check, _ = examine([text], {"columns": {"images": "none"}})
    assert (check.state, check_images(reader).summary[:52]) == (
        "well",
        "no problem has an image, as data.columns.images: non",
    )


def test_unread_columns_are_noted(examine):
    _, check, _ = examine([{**ROW, "hint": "count", "unit": "cm"}])
    assert check.notes == ["columns that nothing reads: hint, unit"]


def test_a_gold_that_fails_against_itself_leaves_no_tick(examine, monkeypatch):
    monkeypatch.setattr(
        "mmhicra.doctor.problems.gold_problem", lambda problem, verifier: "prose" if problem.answer == "77" else None
    )
    bad = {**ROW, "answer": "77"}
    _, data, golds = examine([ROW] * 99 + [bad])
    assert (data.state, golds.state) == ("well", "doubtful")
    assert golds.doubts[0].startswith("1 rows are left out for their gold, the first at ")
    assert Report("", "", [data, golds]).healthy
    _, _, golds = examine([ROW] * 3)
    assert golds.state == "well"
    _, _, golds = examine([ROW, bad], accuracy_weight=0.0, format_weight=1.0)
    assert [fault.kind for fault in golds.faults] == ["reward without signal"]  # and not "unusable gold"
    _, _, golds = examine([ROW, bad])
    assert [fault.kind for fault in golds.faults] == ["unusable gold"]


@pytest.mark.parametrize(("sides", "state"), [((84, 84), "well"), ((84, 112), "well"), ((112, 112), "doubtful")])
def test_more_than_half_of_the_images_shrunk_leave_no_tick(sides, state, examine):
    reader, _, _ = examine([ROW], {"max_pixels": 84 * 84})
    reader.sizes = {str(n): PromptSize(9, (ImageSize(side, 84, 84, 84, 9),)) for n, side in enumerate(sides)}
    assert check_images(reader).state == state
