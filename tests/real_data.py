"""Where the real data sets lie that add to the tests. None is needed: the same tests run on made files (made_data.py).

`MMHICRA_SHARED_DATA` names their folder; without it, `shared/data` beside the checkout is looked at. A value that names
no folder (`MMHICRA_SHARED_DATA=none`) leaves the real data out, as `.ci/run` does in its first pass. Tests that use
them carry the marker `real_data`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("MMHICRA_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
WHY_SKIPPED = f"real data adds to what the made files test, and {REAL_DATA} does not exist (set MMHICRA_SHARED_DATA)"


def mark_real_data(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture `real_data`; skip all marked ones if there is no such data."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)
        if item.get_closest_marker("real_data") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=WHY_SKIPPED))
