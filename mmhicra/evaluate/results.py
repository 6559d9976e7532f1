"""Result files: one JSON object per scored file, and beside it a line per sample."""

from __future__ import annotations

import json
from pathlib import Path

from mmhicra.core.files import write_whole, writing
from mmhicra.evaluate.scoring.score import Scores


def sample_path(result: Path) -> Path:
    """The file with the lines of a result: `x.json` -> `x.samples.jsonl`."""
    return result.with_suffix(".samples.jsonl")


def write_result(path: Path, scores: Scores) -> None:
    """Write both files, making the folder.

    Raises:
        RunFolderError: they cannot be written.
    """
    lines = (json.dumps(record.as_dict(), ensure_ascii=False) for record in scores.records)
    way_out = "free the disk, or name another file with --out"
    with writing(path, way_out):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(sample_path(path), "".join(f"{line}\n" for line in lines), way_out)
    write_whole(path, json.dumps(scores.result, indent=1, ensure_ascii=False) + "\n", way_out)
