"""A tiny model, and the real vLLM that samples from it."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmhicra.config import FreezeConfig, ModelConfig
from mmhicra.config.loading import build_config
from mmhicra.rollout.engine import sampling_of
from mmhicra.rollout.vllm.loading import load_vllm
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder

QUESTIONS = (
    ("How many sides has a triangle, and how many has a square?",),
    ("<image>What is x?", (100, 80)),
    ("Compare <image> with <image><image>.", (84, 84), (150, 60), (56, 112)),
    ("And?",),
)
CLOSE = 1e-4
"""The largest gap between log-probs of engine and trainer."""
EVERYTHING = FreezeConfig(vision_tower=False, merger=False)
DATA = {"max_prompt_tokens": 2048}


class Scene:
    """A tiny model of one family, and vLLM that samples from it."""

    def __init__(self, folder, make_problem, **model):
        self.folder = folder
        self.make_problem = make_problem
        self.config = config_of(folder)
        self.config = self.config.model_copy(update={"model": self.config.model.model_copy(update=model)})
        self.loaded = load_policy(
            ModelConfig(path=str(folder), freeze=FreezeConfig() if model else EVERYTHING, **model)
        )
        self.start = {name: tensor.clone() for name, tensor in self.loaded.model.state_dict().items()}
        self.engine = load_vllm(self.config, self.loaded)
        self.sampling = sampling_of(self.config.rollout, self.loaded, n=3, temperature=0.8)
        self.prompts = [self.build(*question, id=str(i)) for i, question in enumerate(QUESTIONS)]
        self.step = 0

    def build(self, *question, data=None, id="p"):
        builder = PromptBuilder(self.loaded.processor, self.loaded.family, self.loaded.config, data or self.config.data)
        return builder.build(self.make_problem(*question, id=id))

    def begin_again(self):
        """Trainer and engine with the weights of the folder."""
        self.loaded.model.load_state_dict(self.start)
        self.loaded.family.freeze(self.loaded.model, EVERYTHING)
        self.engine.sync(self.loaded.model)

    def generate(self, prompts=None, step=None, **options):
        self.step += 1
        return self.engine.generate(
            prompts or self.prompts, replace(self.sampling, **options), seed=1, step=step or self.step
        )

    def policy(self, model):
        return Policy(
            model,
            self.loaded.family,
            temperature=self.sampling.temperature,
            banned_ids=list(self.sampling.banned_token_ids),
            chunk=64,
        )

    def gap(self, groups, model=None):
        """The largest gap between the engine's log-probs and the trainer's."""
        batch = pack(split_groups(groups, 10_000))
        with torch.no_grad():
            own = self.policy(model or self.loaded.model)(batch).logprobs
        return float((own - batch.engine_logprobs).abs().max())

    def train(self, groups, model=None, steps=3):
        """Optimizer steps that make half of the responses likelier and half of them less."""
        policy, batch = self.policy(model or self.loaded.model), pack(split_groups(groups, 10_000))
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        for _ in range(steps):
            sign = 1.0 - 2.0 * (batch.sequence % 2)
            (sign * policy(batch).logprobs).mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def config_of(folder, **rollout):
    return build_config(
        {
            "model": {"path": str(folder)},
            "data": DATA,
            "rollout": {"engine": "vllm", "max_new_tokens": 12, "max_sequences": 16, **rollout},
        }
    )
