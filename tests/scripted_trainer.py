"""A real trainer whose completions and rewards are written down: no engine samples and no worker judges."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from short_runs import TINY

from mmhicra.config.loading import load_config
from mmhicra.core.records import Completion, Group, Problem, ProblemImage, RewardRecord
from mmhicra.data.dataset import Loaded
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.train.loop.assembly import Inputs, make_trainer
from mmhicra.train.loop.callbacks import Callbacks
from mmhicra.train.loop.terminal import Terminal
from mmhicra.vlm.processing import PromptBuilder

GRAMS = ("let me check", "it seems", "so")
SMALL = [
    *("train.steps=2", "train.prompts_per_step=4", "rollout.n=3", "rollout.max_new_tokens=40", "threads=1"),
    "rollout.guard.every=0",
    *("data.max_prompt_tokens=80", "data.shuffle=false", "train.tokens_per_micro_batch=120"),
    *("train.optimizer.warmup_steps=0", "train.optimizer.max_grad_norm=1e9", "train.optimizer.learning_rate=1e-3"),
]
"""Four prompts of three responses in several rows, one group in two of them.

The script does not follow the weights, as a guard would ask.
"""
QUESTIONS = {
    "p0": "What is 2 + 3?",
    "p1": "<image>How wide is it?",
    "p2": "Is 7 odd?",
    "p3": "<image>Which <image>one?",
}
SCRIPT = {
    "p0": (
        ([(" so",), (" it seems",)], 1.0),
        (["12 or ", ("let me check",)], 0.0),
        ([" five, as 2 and 3 and 0 and 0 make"], 0.0),
    ),
    "p1": (
        (["7 - 6 = 1 and 2 and 3 and a b c d e f"], 0.25),
        (["we", (" so",), " x ", ("let me check",), " it"], 1.0),
        ([("It seems",), "."], 0.0),
    ),
    "p2": (
        ([(" so",)], 1.0),
        (["7 = 2 * 3 + 1 and 2 * 3 = 6, hence 7 - 6 = 1"], 1.0),
        (["yes, 7 - 6 = 1 and 1 is not 0"], 1.0),
    ),
    "p3": (
        ([" left or"], 0.0),
        (["the ", ("it seems",), " the second, not the first"], 0.75),
        ([" and", (" so",)], 1.0),
    ),
}
"""By problem: pieces of each response, those in brackets planning, and its reward. All of p2 are right: no signal."""
CUT = {("p0", 0), ("p1", 0), ("p3", 1)}
"""Problem and number of the responses that end because of their limit, two of them with a planning token."""


def scripted_problems():
    """The problems of `QUESTIONS`, with pictures of noise."""

    rng = np.random.default_rng(0)

    def picture(number):
        return Image.fromarray(rng.integers(0, 256, (90, 60 + 30 * number, 3), dtype=np.uint8))

    return [
        Problem(
            id=name,
            question=question,
            images=tuple(ProblemImage(picture(i), f"{name}/{i}.png") for i in range(question.count("<image>"))),
            answer="1",
        )
        for name, question in QUESTIONS.items()
    ]


def tokenised(tokenizer, pieces):
    """Ids of the pieces, each by itself, and which of them are planning by construction: not a space by itself."""
    ids, planning = [], []
    for piece in pieces:
        own = tokenizer.encode(piece[0] if isinstance(piece, tuple) else piece, add_special_tokens=False)
        ids += own
        planning += [isinstance(piece, tuple) and tokenizer.decode([one]) != " " for one in own]
    return ids, planning


class ScriptedEngine:
    """Answers as its script says; `logprobs_of` (prompt, ids) is what it claims to have sampled with.

    Attributes:
        calls: what it was told, in order.
        groups: of the last call.
    """

    name = "scripted"

    def __init__(self, tokenizer, logprobs_of, script=SCRIPT):
        self.tokenizer, self.logprobs_of, self.script = tokenizer, logprobs_of, script
        self.calls, self.groups, self.cut = [], [], CUT

    def generate(self, prompts, sampling, seed, step, on_finish=None, on_group=None):
        self.calls.append(("generate", [prompt.problem.id for prompt in prompts], seed, step))
        self.groups = []
        for prompt in prompts:
            completions = []
            for number, (pieces, _) in enumerate(self.script[prompt.problem.id]):
                ids, _ = tokenised(self.tokenizer, pieces)
                text, ended = self.tokenizer.decode(ids), (prompt.problem.id, number) not in self.cut
                reason = "stop" if ended else "length"
                completions.append(Completion(ids, self.logprobs_of(prompt, ids), reason, text))
            self.groups.append(Group(prompt, completions))
            if on_group is not None:
                on_group(self.groups[-1])
        return list(self.groups)

    def sync(self, model):
        self.calls.append(("sync", {name: value.detach().clone() for name, value in model.named_parameters()}))
        return {}

    def sleep(self):
        self.calls.append(("sleep",))


class ScriptedRewarder:
    """Gives the rewards of `SCRIPT`."""

    waits_for_all = False

    def begin_step(self, step):
        pass

    def __init__(self, script=SCRIPT):
        self.script = script

    def score(self, groups):
        for group in groups:
            for completion, (_, total) in zip(group.completions, self.script[group.prompt.problem.id], strict=True):
                verdict = "right" if total == 1 else "wrong"
                completion.reward = RewardRecord(None, "none", "1", verdict, "scripted", {"accuracy": total}, total)

    def take_losses(self):
        return 0, []


def scripted_config(folder, *overrides):
    """The smallest configuration in which every part of a step has work to do, for the model in `folder`."""
    return load_config(TINY, [f"model.path={folder}", *SMALL, *overrides])


def scripted_trainer(config, model, logprobs_of, problems=None, script=SCRIPT):
    """The trainer that `assembly` makes of `config`, around a loaded model, with a script for an engine."""
    rewarder = ScriptedRewarder(script)
    inputs = Inputs(
        gram_library=GramLibrary("scripted", tuple(Gram(text) for text in GRAMS)),
        rewarder=rewarder,
        prompts=PromptBuilder(model.processor, model.family, model.config, config.data),
        problems=Loaded(problems or scripted_problems(), [], [], "visual_math"),
        question_sets=[],
        verifier=SimpleNamespace(),
        callbacks=Callbacks(),
    )
    with ExitStack() as stack:
        trainer = make_trainer(config, inputs, model, Accelerator(cpu=True), Terminal(quiet=True), stack)
    trainer.collector.engine = ScriptedEngine(model.tokenizer, logprobs_of, script)
    return trainer


def noise(ids, size):
    """Numbers between -`size` and `size` for the tokens of a response, always the same."""
    generator = torch.Generator().manual_seed(sum(ids))
    return (2 * torch.rand(len(ids), generator=generator) - 1) * size
