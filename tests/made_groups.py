"""Groups with pictures of noise, random responses and random advantages, for a loaded model; and policies."""

import random

import torch
from PIL import Image

from mmhicra.config import DataConfig
from mmhicra.core.records import Completion, Group, Problem, ProblemImage
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.processing import PromptBuilder

TEMPERATURE = 0.8


def make_groups(model, shapes):
    """One group of each shape: (images of the prompt, length of each response)."""
    builder = PromptBuilder(model.processor, model.family, model.config, DataConfig())
    rng = random.Random(0)
    groups = []
    for number, (count, lengths) in enumerate(shapes):
        noise = [Image.effect_noise((60 + 40 * i, 90), 60 + i).convert("RGB") for i in range(count)]
        images = tuple(ProblemImage(picture, f"{i}.png") for i, picture in enumerate(noise))
        problem = Problem(id=f"p{number}", question="<image>" * count + f"What is {number}?", images=images, answer="1")
        group = Group(builder.build(problem), [])
        for length in lengths:
            ids = [rng.randrange(5, 200) for _ in range(length)]
            advantages = torch.tensor([rng.uniform(-1, 1) for _ in range(length)])
            group.completions.append(Completion(ids, [0.0] * length, "length", "", advantages=advantages))
        groups.append(group)
    return groups


def make_policy(model, attention="segments", **more):
    options = {"banned_ids": model.banned_token_ids, "chunk": 7, "attention": attention, **more}
    return Policy(model.model, model.family, temperature=TEMPERATURE, **options)
