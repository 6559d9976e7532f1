"""The table of what is stored stands in docs/explanation/performance.md as `mmhicra bench stored` prints it."""

from pathlib import Path

from benchmarks.stored import row, stored

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"


def test_the_table_is_that_of_the_docs():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    alone, split = stored("7b", 1), stored("7b", 8)
    for one, eight in zip(alone, split, strict=True):
        assert f"| {' | '.join([*row(one), row(eight)[6]])} |" in lines
