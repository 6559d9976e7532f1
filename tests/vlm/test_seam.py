"""Outside `mmhicra/vlm/` nobody knows the name of a model or the keys of its processor."""

import re
from pathlib import Path

import mmhicra

PACKAGE = Path(mmhicra.__file__).parent
KNOWS = re.compile(
    r"qwen|mimo|grid_thw|pixel_values|m-?rope|rope_index|smart_resize|spatial_merge"
    r"|expand\(3\b|models\.\w+_vl",
    re.IGNORECASE,
)
ALLOWED = {
    "core/names.py": 'FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mimo_vl"]',
    "doctor/versions.py": '"qwen_vl_utils"',
}
"""File -> what it may say: the values of `model.family`, and the package whose resizing the trainer uses."""


def test_only_vlm_knows_an_architecture():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("vlm/"):
            continue
        text = path.read_text(encoding="utf-8").replace(ALLOWED.get(name, "\0"), "")
        found += [f"{name}: {line.strip()}" for line in text.splitlines() if KNOWS.search(line)]
    assert found == []


def test_what_is_allowed_is_there():
    assert [name for name, text in ALLOWED.items() if text not in (PACKAGE / name).read_text(encoding="utf-8")] == []
