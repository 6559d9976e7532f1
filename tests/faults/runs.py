"""Run folders with files damaged, removed or put in: resumed, and reported.

Nonsense is a resumed run that ends well with other weights than the undisturbed one, and a foreign file that is gone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from faults import mutate
from faults.compare import differs
from faults.fuzz import Nonsense, Target, command
from faults.kills import Points, make_reference
from faults.sessions import arguments
from faults.spawner import warm

from mmhicra.core.compressed import read_lines, zstd_frame

FOREIGN = (
    "checkpoints/step_000004_backup",
    "checkpoints/step_notes.txt",
    "rollouts/step_old.jsonl",
    "notes.md",
    "checkpoints/step_000000_note",
    "checkpoints/old",
)
"""What a person may have put into a run folder."""


@cache
def folders() -> tuple[Path, Path]:
    """A whole run, and the same run stopped in its fifth step. Made once, before the first fork.

    Cases train in forks of this process, so it must never have trained itself (see `spawner.py`).
    """
    warm()
    out = Path(tempfile.mkdtemp(prefix="faults_runs_"))
    reference = make_reference(out)
    return reference.folder, Points(reference, out).base


def write(rng: random.Random, folder: Path) -> None:
    """`run/` and `case.json`."""
    whole, half = folders()
    action = rng.choice(["resume", "resume", "report"])
    source = half if action == "resume" else whole
    run = folder / "run"
    shutil.copytree(source, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(source), str(run)))
    damaged, foreign = [], []
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.2:
            foreign.append(add_foreign(rng, run))
        else:
            damaged.append(damage(rng, run))
    case = {"action": action, "damaged": damaged, "foreign": [name for name in foreign if name]}
    (folder / "case.json").write_text(json.dumps(case))


def damage(rng: random.Random, run: Path) -> str:
    """Spoil, empty, remove or replace one file; its name."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = rng.choice(files)
    kind = rng.randrange(6)
    if kind < 2:
        path.write_bytes(mutate.spoil_bytes(path.read_bytes(), rng))
    elif kind == 2:
        path.write_bytes(b"")
    elif kind == 3:
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
    elif path.suffix == ".zst":
        try:
            text = b"".join(read_lines(path)).decode()
        except ValueError:  # an earlier damage
            text = "{"
        path.write_bytes(zstd_frame(spoil_json(text, rng, lines=True).encode("utf-8", "replace")))
    elif path.suffix in (".json", ".jsonl"):
        text = spoil_json(path.read_text(encoding="utf-8"), rng, lines=path.suffix == ".jsonl")
        path.write_text(text, encoding="utf-8", errors="replace")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(path.relative_to(run))


def spoil_json(text: str, rng: random.Random, lines: bool) -> str:
    """Other values in one of the objects, or a line that is none; one object a line, or one in all."""
    try:
        if not lines:
            return json.dumps(mutate.change(json.loads(text), rng))
        rows = text.splitlines() or ["{}"]
        place = rng.randrange(len(rows))
        other = json.dumps(mutate.change(json.loads(rows[place]), rng))
        rows[place] = rng.choice([other, other, "{", "7", "", "[]", rows[place][:40]])
        return "\n".join(rows) + "\n"
    except ValueError:
        return "{"


def add_foreign(rng: random.Random, run: Path) -> str | None:
    """A file or a copied checkpoint of somebody's; its name, None if its place is no longer there."""
    name = rng.choice(FOREIGN)
    place = run / name
    if not place.parent.is_dir() or place.exists():
        return None
    checkpoints = sorted((run / "checkpoints").glob("step_0*[0-9]"))
    if name.endswith(("backup", "old")) and checkpoints:
        shutil.copytree(checkpoints[0], place)
    else:
        place.write_text("mine\n")
    return name


def attempt(folder: Path) -> None:
    """Resume, or make the page."""
    case, run = json.loads((folder / "case.json").read_text()), folder / "run"
    if case["action"] == "report":
        command(["report", str(run), "--out", str(folder / "page.html")])
        if (folder / "page.html").stat().st_size < 10_000:
            raise Nonsense("the page is empty")
        return
    try:
        command(arguments(run, "--resume"))
    finally:
        gone = [name for name in case["foreign"] if not os.path.lexists(run / name)]
        if gone:
            raise Nonsense(f"{gone} is gone, which the run did not write")
    refuse_other_run(run, set(case["damaged"]))


def refuse_other_run(run: Path, damaged: set[str]) -> None:
    """Raises Nonsense if a finished run does not hold what the undisturbed one holds."""
    whole, _ = folders()
    last = "checkpoints/step_000006/"
    for name in (TRAINED, MOMENTS, "model.safetensors"):
        complaint = differs(whole / last / name, run / last / name)
        if complaint:
            raise Nonsense(f"{last}{name} {complaint}, after damage to {sorted(damaged)}")
    if "metrics.jsonl" not in damaged and (complaint := differs(whole / "metrics.jsonl", run / "metrics.jsonl")):
        raise Nonsense(f"metrics.jsonl {complaint}, after damage to {sorted(damaged)}")


TRAINED, MOMENTS = (f"trainer_state/{part}/part_00001.safetensors" for part in ("trainable", "optimizer"))
"""In a checkpoint."""

TARGET = Target("runs", write, attempt, folders)
