"""What a run says about its data before it starts, and which data it does not start with."""

import io
import json

import pytest
from PIL import Image
from rich.console import Console

from mmhicra.config.loading import build_config
from mmhicra.core.errors import DataError
from mmhicra.rewards.reward import Rewarder
from mmhicra.train.loop.problems import load_checked_problems
from mmhicra.train.loop.terminal import Terminal
from mmhicra.vlm.loading import load_processor
from mmhicra.vlm.processing import PromptBuilder

CAPTION = "A small red square stands to the left of the middle on a white ground, and nothing else can be seen on it."


@pytest.fixture(scope="module")
def processor():
    return load_processor(build_config({"model": {"path": "tiny_vlm"}}).model)


@pytest.fixture
def check(tmp_path, processor):
    """(rows, data, reward) -> how many problems are used, and what was said."""
    Image.new("RGB", (112, 84)).save(tmp_path / "a.png")

    def checked(rows, data=None, **reward):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree = {"source": str(tmp_path / "train.jsonl"), "max_refused_share": 0.5, **(data or {})}
        config = build_config(
            {
                "data": tree,
                "reward": {"workers": 1, **reward},
                "eval": {"problems": 0},
                "train": {"prompts_per_step": 1},
            }
        )
        said = io.StringIO()
        terminal = Terminal(Console(file=said, width=500))
        prompts = PromptBuilder(processor.processor, processor.family, processor.config, config.data)
        with Rewarder(config.reward, 100) as rewarder:
            loaded = load_checked_problems(config, prompts, rewarder, terminal, None)
        return len(loaded.train), said.getvalue()

    return checked


ROW = {"problem": "How many?", "answer": "3", "image": "a.png"}


def test_columns_that_nothing_reads_are_said_whatever_they_are_called(check):
    used, said = check([{**ROW, "hint": "count", "[/b]": 1, "[red]": 2, "a\x1b": 3}])
    assert used == 1
    assert "columns that nothing reads: hint, [/b], [red], a\\x1b" in said


@pytest.mark.parametrize(("most", "warned"), [(112 * 84, False), (112 * 84 - 1, True)])
def test_more_than_half_of_the_images_shrunk(check, most, warned):
    _, said = check([ROW, ROW], {"max_pixels": most})
    assert (f"2 of 2 images have more pixels than data.max_pixels ({most}) and are shrunk" in said) == warned


def test_half_of_the_images_shrunk_is_no_warning(check, tmp_path):
    Image.new("RGB", (224, 168)).save(tmp_path / "b.png")
    _, said = check([ROW, {**ROW, "image": "b.png"}], {"max_pixels": 112 * 84})
    assert "are shrunk" not in said


def test_a_run_without_images_does_not_start_by_accident(check):
    text = {"problem": "1 + 1?", "answer": "2"}
    with pytest.raises(DataError, match="no row has an image"):
        check([text])
    assert check([text], {"columns": {"images": "none"}})[0] == 1


def test_golds_that_no_reward_reads_are_not_checked(check, monkeypatch):
    monkeypatch.setattr(
        "mmhicra.train.loop.problems.gold_problem",
        lambda problem, verifier: None if problem.answer == "3" else "the gold is no use",
    )
    caption = {**ROW, "answer": CAPTION}
    used, said = check([ROW, caption])
    assert used == 1
    assert "refused 1:" in said
    assert check([ROW, caption], accuracy_weight=0.0, format_weight=1.0)[0] == 2
    without = {"problem": "Describe.", "image": "a.png"}
    assert check([without], {"columns": {"answer": "none"}}, accuracy_weight=0.0, format_weight=1.0)[0] == 1
    with pytest.raises(DataError, match="the gold is no use"):
        check([without], {"columns": {"answer": "none"}})
