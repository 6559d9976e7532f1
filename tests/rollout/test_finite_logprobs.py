"""Log-probs that come back from an engine are finite, or the problem and the token are named."""

import math
from types import SimpleNamespace

import pytest

import mmhicra.rollout.vllm.engine as module
from mmhicra.core.records import Completion
from mmhicra.rollout.engine import NoDistribution, Sampling, refuse_nonfinite
from mmhicra.rollout.vllm.engine import VLLMEngine

SAMPLING = Sampling(2, 1.0, 1.0, 0, 3, (0,), ())


def prompt_of(name):
    return SimpleNamespace(problem=SimpleNamespace(id=name))


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_the_first_bad_token_is_named(value):
    good, bad = [Completion([5, 6, 7], values, "stop", "") for values in ([-1.0, -2.0, 0.0], [-1.0, value, value])]
    refuse_nonfinite(prompt_of("p"), [good, good])
    with pytest.raises(NoDistribution, match=f"problem p: the log-prob of token 1 of response 1 is {value}"):
        refuse_nonfinite(prompt_of("p"), [good, bad])


class FakeLLM:
    """What vLLM's engine gives back, a request at a time: each its script's log-probs for tokens 5, 6, ..."""

    def __init__(self, script):
        self.script, self.requests = script, []

    def add_request(self, request, prompt, params):
        self.requests.append(request)

    def has_unfinished_requests(self):
        return bool(self.requests)

    def step(self):
        values = self.script[len(self.script) - len(self.requests)]
        ids = list(range(5, 5 + len(values)))
        logprobs = [{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, values, strict=True)]
        one = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason="stop")
        return [SimpleNamespace(request_id=self.requests.pop(0), outputs=[one, one])]


def test_what_comes_back_from_vllm_is_checked(monkeypatch):
    """All requests are finished first: a process that left in between would let the others wait."""
    monkeypatch.setattr(module, "sampling_params", lambda sampling, seed: None)
    monkeypatch.setattr(VLLMEngine, "read", lambda self, prompt: None)
    fake = FakeLLM([[-1.0], [-1.0, math.nan], [-2.0]])
    tokenizer = SimpleNamespace(
        batch_decode=lambda rows, **options: ["" for _ in rows],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        added_tokens_decoder={},
    )
    engine = VLLMEngine(SimpleNamespace(llm_engine=fake), None, tokenizer, None)
    with pytest.raises(NoDistribution, match="problem b: the log-prob of token 1 of response 0 is nan"):
        engine.generate([prompt_of(name) for name in "abc"], SAMPLING, seed=0, step=1)
    assert not fake.requests
