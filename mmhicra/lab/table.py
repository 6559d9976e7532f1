"""The lab's results for a person: Markdown, CSV and a table in the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from rich.table import Table

from mmhicra.core.intervals import ConfidenceInterval
from mmhicra.lab.comparison import COMPARED, Difference, Row

PERCENT = ("before", "after", "learning", "late_accuracy", "planning_density")
HEADINGS = {
    "before": "held-out before, %",
    "after": "held-out after, %",
    "learning": "over training, %",
    "late_accuracy": "late rollouts, %",
    "token_entropy": "token entropy, nats",
    "planning_entropy": "on planning tokens",
    "execution_entropy": "on execution tokens",
    "semantic_entropy": "semantic entropy, bits",
    "planning_density": "planning tokens, %",
    "grams": "grams per response",
    "length": "response tokens",
    "alpha": "alpha",
    "planning_errors": "planning errors per 100",
    "execution_errors": "execution errors per 100",
    "minutes": "minutes",
}
"""Number -> what its column is called."""

LEARNED = ("before", "after", "learning", "late_accuracy", "minutes")
BEHAVED = (
    *("token_entropy", "planning_entropy", "execution_entropy", "semantic_entropy", "planning_density"),
    *("grams", "length", "alpha", "planning_errors", "execution_errors"),
)


def markdown(rows: Sequence[Row], baseline: str) -> str:
    """Three tables: what was learned, differences to the baseline, and how the policy ended up."""
    learned = [[row.method, str(len(row.seeds)), *(_said(row, name) for name in LEARNED)] for row in rows]
    paired = [
        [row.method, HEADINGS[name].removesuffix(", %"), *_difference(row.differences[name])]
        for name in COMPARED
        for row in rows
        if name in row.differences
    ]
    behaved = [[row.method, *(_said(row, name) for name in BEHAVED)] for row in rows]
    parts = [
        _table(["method", "seeds", *(HEADINGS[name] for name in LEARNED)], learned),
        f"Paired differences to {baseline}, in points, with what this comparison could have found at power 0.8:",
        _table(["method", "of", "difference", "p", "detectable"], paired) if paired else "One method: none.",
        "In the last tenth of the steps:",
        _table(["method", *(HEADINGS[name] for name in BEHAVED)], behaved),
    ]
    return "\n\n".join(parts) + "\n"


def csv_text(rows: Sequence[Row]) -> str:
    """Every estimate and every difference, one a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "what", "number", "mean", "low", "high", "seeds", "p", "detectable"])
    for row in rows:
        for name, it in row.numbers.items():
            writer.writerow([row.method, "mean", name, it.mean, it.low, it.high, it.count, "", ""])
        for name, gap in row.differences.items():
            it = gap.estimate
            writer.writerow([row.method, "difference", name, it.mean, it.low, it.high, it.count, gap.p, gap.detectable])
    return out.getvalue()


def terminal_table(rows: Sequence[Row], baseline: str) -> Table:
    """One line per method: held-out accuracy after training, over training, and the differences to the baseline."""
    table = Table(title=f"differences to {baseline} are paired by seed; intervals 95 %")
    for heading in (
        "method",
        "seeds",
        "held-out after",
        f"to {baseline}",
        "over training",
        f"to {baseline}",
        "minutes",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        cells = [row.method, str(len(row.seeds))]
        for name in ("after", "learning"):
            gap = row.differences.get(name)
            cells += [_said(row, name), _difference(gap)[0] if gap else ""]
        table.add_row(*cells, _said(row, "minutes"))
    return table


def _said(row: Row, name: str) -> str:
    return _estimate(row.numbers[name], 100 if name in PERCENT else 1) if name in row.numbers else "-"


def _estimate(it: ConfidenceInterval, scale: float) -> str:
    mean = it.mean * scale
    digits = 1 if abs(mean) >= 10 else 2 if abs(mean) >= 1 else 3
    half = (it.high - it.mean) * scale
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _difference(gap: Difference) -> list[str]:
    it = gap.estimate
    said = f"{100 * it.mean:+.1f}"
    if math.isfinite(it.low):
        said += f" ({100 * it.low:+.1f} to {100 * it.high:+.1f})"
    return [said, f"{gap.p:.2f}", f"{100 * gap.detectable:.1f}"]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
