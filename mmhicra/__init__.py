"""mmhicra: multimodal reasoning RL for vision-language models, with hierarchy-aware credit (HICRA)."""

__version__ = "0.1.0"
