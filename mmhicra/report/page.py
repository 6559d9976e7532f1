"""One HTML file from run folders: data as inert JSON, our style and script, and uPlot, all inline."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import mmhicra
from mmhicra.core.files import jsonable, write_whole
from mmhicra.data.refused import RefusedRow
from mmhicra.report.folder import RunData, read_errors, read_run
from mmhicra.report.rollouts import Progress, RolloutPage

PARTS = {
    "/*uplot.css*/": "uPlot.min.css",
    "/*page.css*/": "page.css",
    "/*uplot.js*/": "uPlot.iife.min.js",
    "/*page.js*/": "charts.js browser.js page.js",
}
"""Marks in `page.html` -> what stands there, from `mmhicra/report/page/`."""
SHOWN = 100
"""Refused rows of a kind that are listed."""
POINTS = 1200
"""Steps of all runs together whose metrics are on the page: about a kilobyte each."""


def write_report(
    paths: Sequence[Path],
    out: Path,
    progress: Progress = lambda phase, done, total: None,
    read: RolloutPage | None = None,
) -> list[str]:
    """Write the page of the first run, with the curves of all of them; returns what is missing, in words.

    Args:
        paths: run folders.
        out: the page.
        progress: is told how far the reading of rollouts is.
        read: what was read for the page before, to which only new steps are added.

    Raises:
        UserError: a run cannot be read, or the page not be written.
    """
    data = page_data([read_run(path) for path in paths], progress, read)
    write_whole(out, render(data), "free it or choose another --out")  # a browser never gets half a page
    return data["missing"]


def page_data(runs: Sequence[RunData], progress: Progress, read: RolloutPage | None = None) -> dict[str, Any]:
    """Everything the page says, JSON-able; `read` is what was read of the first run's rollouts before."""
    main = runs[0]
    rollouts = (read or RolloutPage()).update(main, progress)
    every = max(1, -(-sum(len(run.metrics) for run in runs) // POINTS))
    if every > 1:
        main.missing.append(f"Curves show one step in {every} and every evaluation, so that the page stays small.")
    return {
        "version": mmhicra.__version__,
        "name": main.name,
        "verdict": f"{main.name}: {verdict(main)}" if len(runs) > 1 else verdict(main),
        "facts": facts(main),
        "config": main.config_text,
        "summary": main.summary,
        "missing": list(dict.fromkeys(main.missing)),
        "refused": refused_by_kind(main),
        "spent": spent(main),
        "runs": [
            {
                "name": run.name,
                "method": run.method,
                "held_out": run.summary.get("held_out"),
                "metrics": columns(thinned(with_errors(run), every)),
            }
            for run in runs
        ],
        **rollouts,
    }


def refused_by_kind(run: RunData) -> list[dict[str, Any]]:
    """Rows refused before the run by what is wrong with them, the most frequent first; of each kind the first rows."""
    kinds: dict[str, list[RefusedRow]] = {}
    names = [field.name for field in fields(RefusedRow)]
    for row in (RefusedRow(**{name: record[name] for name in names if name in record}) for record in run.refused):
        kinds.setdefault(row.kind, []).append(row)
    return [
        {
            "kind": kind,
            "count": len(rows),
            "rows": [[row.where, row.id, row.reason, row.question] for row in rows[:SHOWN]],
        }
        for kind, rows in sorted(kinds.items(), key=lambda found: -len(found[1]))
    ]


def with_errors(run: RunData) -> list[dict[str, Any]]:
    """The metrics with the count of each kind of error, at the steps that `mmhicra errors` judged."""
    kinds = Counter((step, record["kind"]) for (step, *_), record in read_errors(run).items())
    judged = {step for step, _ in kinds}
    counts = {step: {f"errors/{kind}": kinds[step, kind] for kind in ("planning", "execution")} for step in judged}
    return [{**record, **counts.get(record["step"], {})} for record in run.metrics]


def thinned(metrics: Sequence[dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """One record in `every`, those with an evaluation, and the last."""
    last = len(metrics) - 1
    return [r for i, r in enumerate(metrics) if i % every == 0 or "eval/accuracy" in r or i == last]


def spent(run: RunData) -> list[tuple[str, float, float | None]]:
    """Phase, seconds and the most GiB held in it, the longest phase first; of a run without summary from its steps."""
    seconds: Counter[str] = Counter()
    memory: dict[str, float] = {}
    for record in run.metrics:
        for name, value in record.items():
            if name.startswith("time/"):
                seconds[name.removeprefix("time/")] += value
            elif name.startswith("memory/") and name != "memory/peak_gib":
                phase = name.removeprefix("memory/").removesuffix("_gib")
                memory[phase] = max(memory.get(phase, 0.0), value)
    whole = run.summary.get("seconds_by_phase") or seconds
    ranked = sorted(whole.items(), key=lambda found: -found[1])
    return [(phase, total, memory.get(phase)) for phase, total in ranked if total and phase != "step"]


def columns(metrics: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Metrics by name instead of by step, None where a step does not have one; six digits are enough to draw."""
    names = dict.fromkeys(name for record in metrics for name in record)
    numbers = {}
    for name in names:
        values = [record.get(name) for record in metrics]
        if any(isinstance(value, int | float) for value in values):
            numbers[name] = [_short(value) for value in values]
    return numbers


def _short(value: Any) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")


def verdict(run: RunData) -> str:
    """The run in one sentence, and what it says of itself if it trained nothing or had to skip updates."""
    return " ".join([outcome(run), *(f"{line[0].upper()}{line[1:]}." for line in warnings(run))])


def warnings(run: RunData) -> list[str]:
    """What the summary advises; of a run without one, whether no step so far had anything to train on."""
    if "advice" in run.summary:
        return run.summary["advice"]
    kept = [record["group/kept"] for record in run.metrics if record.get("group/kept") is not None]
    skipped = sum(record.get("optimizer/skipped") or 0 for record in run.metrics)
    lines = ["nothing was trained so far: no step had a group whose rewards differ"] if kept and not any(kept) else []
    return lines + ([f"{skipped:.0f} optimizer updates were skipped"] if skipped else [])


def outcome(run: RunData) -> str:
    """The run in one sentence."""
    held_out = run.summary.get("held_out") or {}
    before, after, change = held_out.get("before"), held_out.get("after"), held_out.get("change")
    if before and after and change:
        low, high = 100 * change["low"], 100 * change["high"]
        moved = "rose" if low > 0 else "fell" if high < 0 else "did not clearly change"
        return (
            f"Held-out accuracy {moved}: {_interval(before)} before, {_interval(after)} after {run.steps} steps, "
            f"a change of {100 * change['mean']:+.1f} points ({low:+.1f} to {high:+.1f})."
        )
    known = [
        record for record in run.metrics if {f"eval/accuracy{end}" for end in ("", "_low", "_high")} <= record.keys()
    ]
    if known:
        last = known[-1]
        seen = {"mean": last["eval/accuracy"], "low": last["eval/accuracy_low"], "high": last["eval/accuracy_high"]}
        return f"After {run.steps} steps the last evaluation, at step {last['step']}, is {_interval(seen)}."
    trained = [record["accuracy/mean"] for record in run.metrics if record.get("accuracy/mean") is not None]
    if trained:
        first, last = _percent(trained[0]), _percent(trained[-1])
        over = f"the first step, {last} of the last" if len(trained) > 1 else "the only step"
        return f"Not evaluated: rollouts were right in {first} of {over}."
    return "No step is finished: there is nothing to say yet."


def _interval(share: dict[str, Any]) -> str:
    return f"{_percent(share['mean'])} ({_percent(share['low'])} to {_percent(share['high'])})"


def _percent(share: float) -> str:
    """Rounded as the page's script rounds: a half goes up."""
    return f"{math.floor(1000 * share + 0.5) / 10:.1f} %"


def facts(run: RunData) -> list[list[str]]:
    """Name and value of what one wants to know first."""
    summary = run.summary
    rows: list[tuple[str, Any]] = [
        ("model", run.setting("model", "path")),
        ("parameters", _parameters(summary.get("parameters"))),
        ("data", _data(run)),
        ("problems", summary.get("problems") and f"{summary['problems']['train']:,} to train on"),
        ("rows refused", f"{len(run.refused):,}"),
        ("method", run.setting("credit", "method")),
        ("alpha", summary.get("alpha", run.setting("hicra", "alpha"))),
        ("Strategic Grams", run.setting("hicra", "grams")),
        ("steps", f"{run.steps} of {run.setting('train', 'steps') or '?'}"),
        ("group", f"{run.setting('train', 'prompts_per_step')} prompts × {run.setting('rollout', 'n')} responses"),
        ("wall time", summary.get("wall_seconds") and f"{summary['wall_seconds']:.0f} s"),
        ("seed", run.config.get("seed")),
    ]
    return [[name, str(value)] for name, value in rows if value is not None]


def _data(run: RunData) -> str | None:
    """The source, or all of them with their shares."""
    sources = run.setting("data", "sources")
    if not sources:
        return run.setting("data", "source")
    whole = sum(source["weight"] for source in sources)
    return ", ".join(f"{source['source']} ({source['weight'] / whole:.0%})" for source in sources)


def _parameters(counts: dict[str, int] | None) -> str | None:
    return f"{counts['total']:,}, {counts['trained']:,} trained" if counts else None


def render(data: dict[str, Any]) -> str:
    """The page. Nothing in `data` can end its script element: `<` is written as an escape."""
    folder = files("mmhicra.report") / "page"
    page = (folder / "page.html").read_text(encoding="utf-8")
    for mark, names in PARTS.items():
        text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names.split())
        page = page.replace(mark, text)
    text = json.dumps(jsonable(data), ensure_ascii=True, separators=(",", ":"))
    return page.replace('"DATA"', text.replace("<", "\\u003c"))
