"""`mmhicra data` shows what a source is understood as, in words and as a page, without a model and with one."""

import json
import re
from pathlib import Path

import pytest

from mmhicra.cli import main

FILES = Path(__file__).parents[1] / "data" / "layouts"
ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def shown(capsys):
    """(arguments) -> exit status and what is printed."""

    def run(*arguments):
        status = main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_a_chat_without_a_model_is_shown_as_roles_and_text(shown):
    status, said = shown(FILES / "trl.jsonl")
    assert status == 0
    for line in (
        f"{FILES}/trl.jsonl: preset trl, by its columns prompt",
        "  question  prompt",
        "2 rows of the first 1,000: 2 can be used, 0 are refused",
        "  | system: A conversation between User and Assistant. Think first.",
        "  | user: <image>",
        "  image images/red.png: 56x42 pixels",
        "  gold (text): blue",
        "  images of a row: 1 at least, 1 in the median, 1 at most",
    ):
        assert line in said.splitlines(), line


def test_with_a_model_the_prompt_is_the_one_it_gets(shown):
    status, said = shown(FILES / "scienceqa.jsonl", "--model", "tiny_vlm")
    assert status == 0
    assert "  | <|im_start|>user\n  | <|vision_start|><|image_pad|><|vision_end|>\n  | Mammals feed" in said
    assert "images/red.png: 56x42 pixels, shown as 56x56, 4 tokens" in said
    assert "nothing reads: task, topic, lecture, solution" in said
    assert re.search(r"tokens of a prompt: \d+ at least", said)


def test_refused_rows_have_reasons_and_counts_and_the_page_escapes_all(shown, tmp_path):
    rows = [
        {"id": ATTACK, "problem": ATTACK, "answer": "1", "images": [str(FILES / "images/red.png")], "note": "n"},
        *({"id": n, "problem": "?", "answer": "", "images": [], "note": ATTACK} for n in range(3)),
        {"id": "video", "problem": "<video>?", "answer": ATTACK, "images": [], "note": ""},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, said = shown(tmp_path / "train.jsonl", "--page", tmp_path / "page.html", "--limit", 0)
    assert status == 0
    assert "5 rows: 1 can be used, 4 are refused" in said
    assert "  3: answer empty" in said
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/webp;base64,') == 1
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page), "the page is self-contained"
    assert "answer empty" in page
    assert "nothing reads" in page


def test_several_sources_of_a_configuration_are_shown_one_by_one(shown, tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"""\
data:
  sources:
    - {{source: {FILES}/vlm_r1.jsonl, name: boxes, reward: {{accuracy_weight: 0, format_weight: 1}}}}
    - {{source: {FILES}/vlm_r1.jsonl, name: judged}}
    - {{source: {FILES}/llava.jsonl, name: overlap, reward: {{accuracy_weight: 0, terms: [{{name: iou}}]}}}}
model: {{path: tiny_vlm}}
"""
    )
    status, said = shown("--config", tmp_path / "run.yaml")
    assert status == 0
    boxes, judged = said.split("judged: ")
    judged, overlap = judged.split("overlap: ")
    assert "reward.terms: iou: the gold 'the colour' is no box or list of boxes" in overlap
    assert boxes.startswith("boxes: ")
    assert "1 can be used, 0 are refused" in boxes
    assert "0 can be used, 1 are refused" in judged
    assert "the gold is a box, which accuracy cannot judge" in judged


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a source, e.g. mmhicra data problems.jsonl"),
        (("nope.jsonl",), "nope.jsonl does not exist"),
        ((FILES / "trl.jsonl", "--columns", "answer"), "--columns answer: write ROLE=COLUMN"),
        ((FILES / "trl.jsonl", "--columns", "answr=x"), "data.columns.answr is not a known field"),
        ((FILES / "trl.jsonl", "--preset", "mmk12"), "or data.preset: trl, whose columns it has"),
        ((FILES / "trl.jsonl", "--limit", "-1"), "--limit is -1"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, says, shown):
    status, said = shown(*arguments)
    assert status == 2
    assert says in said
    assert "Traceback" not in said
