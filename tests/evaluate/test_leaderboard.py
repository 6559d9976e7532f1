from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser

import pytest

from mmhicra.cli import main
from mmhicra.evaluate.leaderboard import markdown, merge, page, published_rows

RESULT = {
    "benchmark": "mathvision",
    "mode": "robust",
    "stage": "response",
    "integer_rule": None,
    "scorer_version": "1",
    "versions_in_score": None,
    "score": {"accuracy": 0.4, "low": 0.38, "high": 0.42},
    "counts": {"missing": 3},
    "inputs": {"responses": {"name": "mine.jsonl"}},
}


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, str | None]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr" and ("data-size" in dict(attrs)):
            self.rows.append(dict(attrs))
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


def test_own_results_stand_among_published_ones(tmp_path, capsys):
    (tmp_path / "mine.json").write_text(json.dumps(RESULT))
    out = tmp_path / "board"
    assert main(["leaderboard", f"My <model>:7={tmp_path / 'mine.json'}", "--out", str(out)]) == 0
    assert "mathvision: rows differ in protocol" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text())))
    assert {row["benchmark"] for row in rows} == {"mathvision"}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    mine = next(row for row in rows if row["own"] == "True")
    assert (mine["model"], mine["size"], mine["low"], mine["subset"]) == (
        *("My <model>", "7.0", "38.0"),
        "test, 3 questions missing",
    )
    assert "| **My <model>** | 7 | 40.00 | 38.0 to 42.0 |" in (out / "leaderboard.md").read_text()
    cells = Cells()
    cells.feed((out / "leaderboard.html").read_text())
    assert [row["class"] for row in cells.rows if "class" in row] == ["own"]
    assert len(cells.rows) == len(rows)
    assert not cells.links  # self-contained
    assert "My &lt;model&gt;" in (out / "leaderboard.html").read_text()


def test_every_published_row_names_source_and_protocol():
    rows = published_rows()
    assert all(row.source and row.protocol and row.subset and 0 < row.score < 100 for row in rows)
    assert merge([], rows)[0].benchmark == "mathverse"
    assert markdown(merge([], rows)).count("## ") == 3
    assert page(merge([], rows)).count("<tr data-") + page(merge([], rows)).count("<tr  data-") >= len(rows)


@pytest.mark.parametrize(
    ("content", "said"), [("[]", "is no result of eval score"), ("{", "is no result of eval score")]
)
def test_what_is_no_result_is_refused(tmp_path, capsys, content, said):
    (tmp_path / "x.json").write_text(content)
    assert main(["leaderboard", str(tmp_path / "x.json"), "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
