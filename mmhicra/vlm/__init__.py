"""Vision-language models. Importing the package makes the families known that ship with it."""

from mmhicra.vlm.family import register_family
from mmhicra.vlm.qwen2_5_vl import MIMO_VL, QWEN2_5_VL
from mmhicra.vlm.qwen2_vl import QWEN2_VL
from mmhicra.vlm.qwen3_vl import QWEN3_VL

for _family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, MIMO_VL):
    register_family(_family)
