from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from mmhicra.core.errors import UserError
from mmhicra.hicra.spans import decode_bytes, token_spans

UTF8_EDGES = b"\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xe2\xed\xef\xf0\xf3\xf4\xf5\xff"


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(UTF8_EDGES), max_size=12).map(bytes) | st.binary(max_size=12))
@pytest.mark.slow
def test_every_byte_belongs_to_the_character_it_helped_to_write(data):
    text, character = decode_bytes(data)
    assert text == data.decode(errors="replace")
    assert character[-1] == len(text)
    for index, letter in enumerate(text):
        own = data[int(np.argmax(character == index)) : int(np.argmax(character == index + 1))]
        assert own.decode(errors="replace") == letter


@pytest.mark.slow
def test_spans_of_encoded_and_of_random_tokens_equal_the_slow_ones(tokenizer, compose, slow_spans):
    rng = random.Random(0)
    for _ in range(200):
        written = tokenizer.encode(compose(rng, 8), add_special_tokens=False)
        drawn = [rng.randrange(len(tokenizer)) for _ in range(20)]
        for ids in (written, drawn, rng.sample(written, len(written))):
            text, spans = token_spans(ids, tokenizer)
            assert text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            assert (text, [tuple(span) for span in spans.tolist()]) == slow_spans(ids, tokenizer)


def test_a_character_is_in_the_span_of_every_token_that_wrote_a_byte_of_it(byte_tokenizer):
    ids = byte_tokenizer.encode("a🙂’b")
    text, spans = token_spans(ids, byte_tokenizer)
    assert text == "a🙂’b"
    assert spans.tolist() == [[0, 1]] + [[1, 2]] * 4 + [[2, 3]] * 3 + [[3, 4]]


def test_no_tokens_no_text(tokenizer):
    text, spans = token_spans([], tokenizer)
    assert text == ""
    assert spans.shape == (0, 2)


def test_ids_may_be_a_tensor_an_array_or_a_list(tokenizer):
    ids = tokenizer.encode("Let me see")
    expected = token_spans(ids, tokenizer)[1].tolist()
    assert token_spans(torch.tensor(ids), tokenizer)[1].tolist() == expected
    assert token_spans(np.array(ids, dtype=np.int32), tokenizer)[1].tolist() == expected


def test_ids_beyond_the_vocabulary_are_one_replacement_character_each(tokenizer):
    text, spans = token_spans([len(tokenizer), len(tokenizer) + 999], tokenizer)
    assert text == "\ufffd\ufffd"
    assert spans.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("ids", [[1, -100], [[1, 2], [3, 4]]])
def test_padding_and_batches_are_errors(ids, tokenizer):
    with pytest.raises(ValueError, match=r"padding|one response"):
        token_spans(ids, tokenizer)


def test_tokens_added_later_are_known(byte_tokenizer):
    grown = type(byte_tokenizer)(tokenizer_object=Tokenizer.from_str(byte_tokenizer.backend_tokenizer.to_str()))
    assert token_spans([len(grown)], grown)[0] == "\ufffd"
    grown.add_tokens(["<answer>"])
    assert token_spans([len(grown) - 1], grown)[0] == "<answer>"


def test_other_kinds_of_tokenizer_are_refused_by_name():
    metaspace = Tokenizer(models.Unigram())
    metaspace.decoder = decoders.Metaspace()
    with pytest.raises(UserError, match="Tokenizer: its decoder is Metaspace"):
        token_spans([0], metaspace)
    with pytest.raises(UserError, match="object: not a fast tokenizer"):
        token_spans([0], object())
