"""Qwen2.5-VL, whose vision tower attends in windows (arXiv 2502.13923, section 2.1), and MiMo-VL, which is built alike.

To the trainer they are Qwen2-VL with another model class: `PatchGridWork` reads the windows from the configuration.
"""

from __future__ import annotations

from mmhicra.vlm.family import THINKING
from mmhicra.vlm.qwen2_vl import Qwen2VL

QWEN2_5_VL = Qwen2VL("qwen2_5_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration")
MIMO_VL = Qwen2VL(
    "mimo_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", thinking=THINKING, no_think="/no_think"
)
"""MiMo-VL thinks before it answers; `family.family_of` says how its checkpoints are told from Qwen2.5-VL's.

Where its template reads no argument for that (`no_think`), a question that ends in the plain text `/no_think` is
answered without thinking, from the checkpoints of 2508 on (https://github.com/XiaomiMiMo/MiMo-VL/issues/30).
"""
