"""Result files: one JSON object per scored file, and beside it a line per sample."""

from __future__ import annotations

import json
from pathlib import Path

from mmhicra.evaluate.scoring import Scores
from mmhicra.refusals import DataRefusal


def sample_path(result: Path) -> Path:
    """Where the lines of a result stand: `x.json` -> `x.samples.jsonl`."""
    return result.with_suffix(".samples.jsonl")


def write_result(path: Path, scores: Scores) -> None:
    """Write both files, making the folder.

    Raises:
        DataRefusal: they cannot be written.
    """
    lines = (json.dumps(record.as_dict(), ensure_ascii=False) for record in scores.records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores.result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        # A response may hold lone surrogates, which no encoding has.
        text = "".join(f"{line}\n" for line in lines)
        sample_path(path).write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataRefusal(f"{path} cannot be written ({error.strerror}): name another file with --out") from None
