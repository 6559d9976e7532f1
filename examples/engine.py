"""An engine of your own: answers from a script, to try rewards and credit without a model that answers."""

import random
from collections.abc import Callable, Sequence

from torch import nn

from mmhicra.config import RunConfig
from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.rollout.engine import Sampling, request_seed
from mmhicra.vlm.loading import LoadedModel


class ScriptedEngine:
    """Gives the gold in half of its responses; its log-probs are made up, so set `rollout.guard.every` to 0."""

    name = "scripted"

    def __init__(self, config: RunConfig, model: LoadedModel) -> None:
        self.tokenizer, self.end = model.tokenizer, model.end_token_ids[0]

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Callable[[int], None] | None = None,
        on_group: Callable[[Group], None] | None = None,
    ) -> list[Group]:
        """`sampling.n` completions of each prompt; the same for the same seed, step and problem."""
        groups: list[Group] = []
        for prompt in prompts:
            draw = random.Random(request_seed(seed, step, prompt.problem.id))
            answers = [prompt.problem.answer if draw.random() < 0.5 else "nothing" for _ in range(sampling.n)]
            groups.append(Group(prompt, [self.complete(f"Wait. \\boxed{{{each}}}", sampling) for each in answers]))
        return groups

    def complete(self, text: str, sampling: Sampling) -> Completion:
        """A text as if it had been sampled, each token with probability 1."""
        ids = [*self.tokenizer.encode(text, add_special_tokens=False)[: sampling.max_new_tokens - 1], self.end]
        return Completion(ids, [0.0] * len(ids), "stop", text)

    def sync(self, model: nn.Module) -> dict[str, float]:
        """It has no weights."""
        return {}

    def sleep(self) -> None:
        """It holds nothing."""
