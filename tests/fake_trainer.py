"""A trainer without a model: its policy is one table of logits, so every number of a step has a formula of a line."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from short_runs import short_config
from torch import nn

from mmhicra.core.memory import MemoryGauge
from mmhicra.core.records import Completion, Group, Problem, Prompt, RewardRecord
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import Match, PlanningTags
from mmhicra.train.collector import Collector
from mmhicra.train.credit import CreditAssigner
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.guard import AlignmentGuard
from mmhicra.train.loop.metrics import Timers
from mmhicra.train.trainer import Trainer
from mmhicra.train.update.logprob import TokenStats
from mmhicra.train.update.updates import UpdateCount
from mmhicra.vlm.patch_grid import PatchGridInputs

VOCABULARY = 10
PLANS = 7
"""The one token that is a Strategic Gram."""
SCRIPT = {
    "p0": (([1, 7, 3], 1.0), ([4, 5], 0.0), ([7, 7], 0.25)),
    "p1": (([2, 2], 1.0), ([6], 1.0), ([7, 1], 1.0)),
    "p2": (([8, 9, 7, 1], 0.0), ([7], 1.0), ([3, 3, 3], 0.0)),
    "p3": (([5], 0.5), ([1, 7, 2, 2, 2], 0.0), ([9, 8], 1.0)),
}
"""By problem: the ids of each response and its reward. All of p1 are right: no signal."""
SMALL = (
    *("train.prompts_per_step=4", "rollout.n=3", "rollout.max_new_tokens=8", "data.max_prompt_tokens=12"),
    *("train.tokens_per_micro_batch=20", "train.steps=4", "train.optimizer.max_grad_norm=1e9"),
)
"""A group fills a row."""
RATE = 0.5


class TablePolicy(nn.Module):
    """Gives a token the same log-prob wherever it stands."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.logits = nn.Parameter(torch.linspace(-1, 1, VOCABULARY))

    def logprobs(self):
        return self.model.logits.log_softmax(-1)

    def forward(self, batch):
        logprobs = self.logprobs()
        entropy = -(logprobs.exp() * logprobs).sum().expand(len(batch.targets))
        return TokenStats(logprobs[batch.targets], entropy, entropy)


class FakeAccelerator:
    """One process on the CPU, which may say that it is one of `num_processes`."""

    device, process_index, is_main_process = torch.device("cpu"), 0, True

    def __init__(self, num_processes=1):
        self.num_processes = num_processes

    def gather(self, values):
        return values

    def backward(self, loss):
        loss.backward()

    def unwrap_model(self, model):
        return model

    def no_sync(self, model):
        return nullcontext()


class FakeMatcher:
    """Finds `PLANS`; it can do nothing but `read`, and counts how often it is asked."""

    def __init__(self):
        self.gram_library = GramLibrary("fake", (Gram("so"),))
        self.searched = []

    def read(self, ids):
        self.searched.append(tuple(ids))
        planning = torch.tensor([one == PLANS for one in ids])
        matches = [Match(self.gram_library.grams[0], at, at + 1, at, at + 1) for at in planning.nonzero().flatten()]
        return PlanningTags(planning, torch.zeros_like(planning), matches)


class FakeEngine:
    """Answers as `SCRIPT` says, with the log-probs of `policy` plus `error`; notes what it is told in `calls`."""

    name = "fake"

    def __init__(self, policy, error=0.0):
        self.policy, self.error, self.calls = policy, error, []

    def generate(self, prompts, sampling, seed, step, on_finish=None, on_group=None):
        self.calls.append("generate")
        groups = []
        for prompt in prompts:
            own = [
                Completion(list(ids), (self.policy.logprobs()[ids] + self.error).tolist(), "stop", "so")
                for ids, _ in SCRIPT[prompt.problem.id]
            ]
            groups.append(Group(prompt, own))
            if on_group is not None:
                on_group(groups[-1])
        return groups

    def sync(self, model):
        self.calls.append("sync")
        return {}

    def sleep(self):
        self.calls.append("sleep")


class FakeRewarder:
    """Gives the rewards of `SCRIPT`."""

    waits_for_all = False

    def begin_step(self, step):
        pass

    def score(self, groups):
        for group in groups:
            for completion, (_, total) in zip(group.completions, SCRIPT[group.prompt.problem.id], strict=True):
                verdict = "right" if total == 1 else "wrong"
                completion.reward = RewardRecord(None, "none", "1", verdict, "", {"accuracy": total}, total)

    def take_losses(self):
        return 0, []


def fake_prompt(problem):
    """Four text tokens."""
    ids = torch.arange(4)
    vision = PatchGridInputs(positions=ids.expand(3, -1))
    return Prompt(problem, ids.tolist(), ids, torch.zeros(4, dtype=torch.bool), vision)


def fake_groups():
    """The groups of `SCRIPT`, scored, with entropies that rise along a response."""
    problems = [Problem(id=name, question="?", images=(), answer="1") for name in SCRIPT]
    groups = FakeEngine(TablePolicy()).generate(list(map(fake_prompt, problems)), None, 0, 1)
    FakeRewarder().score(groups)
    for completion in (completion for group in groups for completion in group.completions):
        completion.entropy = torch.linspace(0.1, 1.0, len(completion))
    return groups


def fake_trainer(*overrides, ranks=None, error=0.0):
    """A trainer of `TablePolicy` by plain SGD; its engine samples all problems at every step."""
    config = short_config("nowhere", *SMALL, *overrides)
    problems = [Problem(id=name, question="?", images=(), answer="1") for name in SCRIPT]
    policy, memory = TablePolicy(), MemoryGauge()
    ranks, time = ranks or Ranks(FakeAccelerator()), Timers(memory)
    collector = Collector(
        engine=FakeEngine(policy, error),
        sampling=SimpleNamespace(n=config.rollout.n, max_new_tokens=config.rollout.max_new_tokens),
        rewarder=FakeRewarder(),
        stream=SimpleNamespace(take=lambda count: problems[:count], refill=lambda count: [], state=dict, left_out=None),
        prompts=SimpleNamespace(build=fake_prompt),
        vision=None,
        policy=policy,
        ranks=ranks,
        time=time,
        seed=config.seed,
        prompts_per_step=config.train.prompts_per_step,
    )
    optimizer = torch.optim.SGD(policy.parameters(), lr=RATE)
    return Trainer(
        config=config,
        accelerator=ranks.accelerator,
        policy=policy,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0),
        reference=None,
        collector=collector,
        credit_assigner=CreditAssigner(config.credit, config.hicra, FakeMatcher(), None, config.seed),
        guard=AlignmentGuard(config.rollout.guard, config.model.precision, config.rollout.cuts, lambda text: None),
        ranks=ranks,
        work=SimpleNamespace(forward=lambda group: 1.0),
        updates=UpdateCount(config.train.max_skipped_updates),
        memory=memory,
        time=time,
    )
