"""Stop strings end a response where decoding it after every token would; for vLLM see test_vllm_engine.py.

`naive_length` is the reference.
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from mmhicra.config import DataConfig, RolloutConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.records import Completion, Group
from mmhicra.rollout.engine import Sampling, sampling_of
from mmhicra.rollout.engines import OwnEngine
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.rollout.stop_strings import StopStrings
from mmhicra.rollout.vllm.engine import VLLMEngine
from mmhicra.vlm.processing import PromptBuilder

STOPS = ("</answer>", "答案", "🙂🙂", "so ", "\n\n", "e")
TEXTS = ("</answer>", "</ans", "wer>\n", "er>x", "答", "案。", "🙂", "so", " so ", "\n", " = 42", "thee", "a b")


def naive_length(tokenizer, ids, strings):
    """Decode the whole response after every token, and look."""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if any(string in text for string in strings):
            return count
    return None


@pytest.fixture(scope="module")
def tokenizers(tiny_model_folder):
    """The tiny model's tokenizer, and one in which the tag is a special token."""
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tiny_model_folder("qwen2_5_vl"))
    tagged = copy.deepcopy(plain)
    tagged.add_special_tokens({"additional_special_tokens": [AddedToken("</answer>", special=True)]})
    return plain, tagged


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_response_is_cut_where_decoding_it_after_every_token_would_cut_it(tokenizers, data):
    tokenizer = data.draw(st.sampled_from(tokenizers))
    strings = data.draw(st.lists(st.sampled_from(STOPS), min_size=1, max_size=3, unique=True))
    random_ids = st.lists(st.integers(0, len(tokenizer) - 1), max_size=4)
    pieces = data.draw(st.lists(st.one_of(st.sampled_from(TEXTS), random_ids), max_size=8))
    ids = [
        token
        for piece in pieces
        for token in (tokenizer.encode(piece, add_special_tokens=False) if isinstance(piece, str) else piece)
    ]
    found, wanted = StopStrings(strings, tokenizer), naive_length(tokenizer, ids, strings)
    assert found.length(ids) == wanted
    likely = found.candidates(torch.tensor(ids, dtype=torch.int64)).tolist()
    completed = [n for n in range(1, len(ids) + 1) if likely[n - 1] and found.completed(ids[:n])]
    assert (completed or [None])[0] == wanted


@pytest.fixture
def scene(tiny_model, make_problem):
    """Model, prompts, engine and sampling without stop strings."""
    loaded = tiny_model("qwen2_5_vl")
    build = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig()).build
    prompts = [build(make_problem("How many sides has it?", id="a")), build(make_problem("And?", id="b"))]
    engine = HFEngine(loaded.model, loaded.family, loaded.tokenizer, loaded.pad_token_id, max_sequences=24)
    return loaded, prompts, engine, sampling_of(RolloutConfig(max_new_tokens=40), loaded, n=12, temperature=1.0)


def test_the_embedded_engine_stops_with_the_token_that_completes_a_string(scene):
    """The same numbers are drawn with and without stop strings, so a stopped response is the other one's beginning."""
    loaded, prompts, engine, sampling = scene
    free = [c for group in engine.generate(prompts, sampling, seed=3, step=1) for c in group.completions]
    strings = (*tuple(c.text[5:8] for c in free if "\ufffd" not in c.text[4:9])[:2], "7")
    options = replace(sampling, stop_strings=strings)
    stopped = [c for group in engine.generate(prompts, options, seed=3, step=1) for c in group.completions]
    lengths = [naive_length(loaded.tokenizer, c.ids, strings) for c in free]
    assert len({length for length in lengths if length}) > 5, "they should end at different places"
    for one, whole, length in zip(stopped, free, lengths, strict=True):
        assert one.ids == whole.ids[:length]
        assert one.logprobs == pytest.approx(whole.logprobs[:length], abs=1e-5)
        assert one.finish_reason == ("stop" if length else whole.finish_reason)
        assert not length or any(string in one.text for string in strings), "the reward has to see it"
    again = [c for group in engine.generate(prompts, sampling, seed=3, step=1) for c in group.completions]
    assert [(c.ids, c.logprobs, c.text) for c in again] == [(c.ids, c.logprobs, c.text) for c in free]


def test_what_vllm_samples_behind_a_stop_string_is_cut_off(tokenizers):
    """vLLM waits for the rest of a character that begins in the token which completes the string."""
    tokenizer, _ = tokenizers
    ids = tokenizer.encode("so </answer>é and", add_special_tokens=False)
    sampled = SimpleNamespace(token_ids=ids, finish_reason="length")
    sampling = Sampling(1, 1.0, 1.0, 0, len(ids), (0,), (), ("</answer>",))
    engine = VLLMEngine(None, None, tokenizer, torch.float32)
    (kept,), (stopped,) = engine._cut(SimpleNamespace(outputs=[sampled]), sampling)
    assert (tokenizer.decode(kept), stopped) == ("so </answer>", True)
    assert engine._cut(SimpleNamespace(outputs=[sampled]), replace(sampling, stop_strings=("x",))) == ([ids], [False])


def test_unusable_stop_strings_are_refused(tiny_model):
    loaded = tiny_model("qwen2_5_vl")
    for text, said in (("", "is empty"), ("a\ufffd", "broken text")):
        with pytest.raises(ConfigError, match=rf"rollout.stop_strings.*{said}"):
            build_config({"rollout": {"stop_strings": [text]}})
    with pytest.raises(ConfigError, match=r"'the end is near' is \d+ tokens, more than rollout.max_new_tokens \(3\)"):
        sampling_of(RolloutConfig(max_new_tokens=3, stop_strings=["the end is near"]), loaded, n=2, temperature=1.0)


def test_an_engine_of_ones_own_that_does_not_stop_is_named(scene):
    _, prompts, _, sampling = scene

    class Deaf:
        def generate(self, prompts, sampling, seed, step, on_finish, on_group):
            return [Group(p, [Completion([1], [0.0], "length", "a </s> b")] * sampling.n) for p in prompts]

    with pytest.raises(UserError, match=r"mine went on behind '</s>' in completion 0 of problem a: it has to stop"):
        OwnEngine("mine", Deaf()).generate(prompts, replace(sampling, stop_strings=("</s>",)), 0, 0)
