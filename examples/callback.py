"""A callback of your own: writes the longest response of every step to a file in the run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmhicra.config import RunConfig
from mmhicra.core.records import Group


class LongestResponses:
    """Keeps `longest.txt`: a step, the tokens of its longest response and that response in one line."""

    def on_run_begin(self, config: RunConfig, folder: Path, step: int) -> None:
        """The run folder is there."""
        self.file = folder / "longest.txt"

    def on_step_end(self, step: int, metrics: Mapping[str, Any], groups: Sequence[Group]) -> None:
        """Add the step's line."""
        longest = max((each for group in groups for each in group.completions), key=len)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{step}\t{len(longest)}\t{' '.join(longest.text.split())}\n")
