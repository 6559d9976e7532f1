"""Real byte-level BPE tokenizers, trained here, and the slow references that masks are compared with."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mmhicra.hicra.grams import GramLibrary

GRAMS = [gram.text for gram in GramLibrary.load("published_249").grams]
WORDS = [
    "some",
    "also",
    "nowhere",
    "sober",
    "wait2",
    "x=3",
    "so_far",
    "nextdoor",
    "but-ton",
    "let’s",
    "“let's”",
]
ODDITIES = [
    "一共",
    "5",
    "façade",
    "cafe\u0301",
    "🙂",
    "👩\u200d👧",
    "İstanbul",
    "ΣΟΦΟΣ",
    "$5",
    "\\frac{1}{2}",
    "\ufffd",
]
FILLERS = [*WORDS, *ODDITIES, "triangle", "ABC", "42.0", "ok,", "...", "`code`", "**", "--", "?", "\u2003"]
GAPS = ("", " ", " ", " ", "  ", "\n", "\n\n", "\t", ", ", ". ", "\u00a0", "\r\n", "\u3000")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _compose(rng: random.Random, length: int) -> str:
    return "".join(
        _reshape(rng, rng.choice(GRAMS if rng.random() < 0.5 else FILLERS)) + rng.choice(GAPS) for _ in range(length)
    )


def _reshape(rng: random.Random, text: str) -> str:
    changes = (
        str.upper,
        str.capitalize,
        lambda t: t.replace("'", "’"),
        lambda t: t.replace(" ", rng.choice(["\n", "  ", "\u00a0", " \r\n\t"])),
        lambda t: t[rng.randrange(len(t) + 1) :],
        lambda t: t + t,
        *(str,) * 4,
    )
    return rng.choice(changes)(text)


@pytest.fixture(scope="session")
def compose() -> Callable[[random.Random, int], str]:
    """A response of published grams in odd shapes (case, quotes, white space, cut, doubled) among fillers."""
    return _compose


def _train(vocab_size: int, pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(vocab_size)
    tokenizer.train_from_iterator([_compose(rng, 12) for _ in range(400)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return wrapped


def _byte_level(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _qwen_like() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    return pre_tokenizers.Sequence([split, _byte_level(use_regex=False)])


TOKENIZERS = {
    "bytes": lambda: _train(258, _byte_level(use_regex=True)),
    "qwen-like": lambda: _train(700, _qwen_like()),
    "across-words": lambda: _train(1500, _byte_level(use_regex=False)),
}


@pytest.fixture(scope="session", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Three vocabularies: single bytes, pieces of words, and tokens that run across words and lines."""
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for every byte."""
    return TOKENIZERS["bytes"]()


def _slow_spans(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> tuple[str, list[tuple[int, int]]]:
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    added = tokenizer.added_tokens_decoder
    pieces = [
        added[i].content.encode() if i in added else bytes(byte_of[c] for c in tokenizer.convert_ids_to_tokens(i))
        for i in ids
    ]
    data, text, owner = b"".join(pieces), "", []
    while len(owner) < len(data):
        rest, length = data[len(owner) :], 1
        while length < len(rest) and _is_sequence(rest[: length + 1]):
            length += 1
        owner += [len(text)] * length
        text += rest[:length].decode(errors="replace")
    spans, start = [], 0
    for piece in pieces:
        spans.append((owner[start], owner[start + len(piece) - 1] + 1))
        start += len(piece)
    return text, spans


@cache
def _is_sequence(data: bytes) -> bool:
    """Whether this is one UTF-8 sequence or the beginning of one: some ending makes it a single character."""
    endings = (bytes(ending) for n in range(4) for ending in product(b"\x80\x90\xa0\xbf", repeat=n))
    return any(_is_character(data + ending) for ending in endings)


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


@pytest.fixture(scope="session")
def slow_spans() -> Callable[..., tuple[str, list[tuple[int, int]]]]:
    """Text and spans, one character after the other, each of as many bytes as can be one UTF-8 sequence."""
    return _slow_spans


def _slow_mask(ids: list[int], tokenizer: PreTrainedTokenizerFast, grams: list[str]) -> list[bool]:
    text, spans = _slow_spans(ids, tokenizer)
    walled = {
        c for i, span in zip(ids, spans, strict=True) if i in tokenizer.added_tokens_decoder for c in range(*span)
    }
    normal, origin = "", []
    for place, character in enumerate(text):
        character = "\0" if place in walled else _fold(character)
        if not (character == " " and normal.endswith(" ")):
            normal += character
            origin.append(place)
    marked: set[int] = set()
    for gram in grams:
        before = r"(?<!\w)" if re.match(r"\w", gram) else ""
        after = r"(?!\w)" if re.search(r"\w\Z", gram) else ""
        for match in re.finditer(f"(?={before}{re.escape(gram)}{after})", normal) if gram in normal else ():
            marked |= set(range(origin[match.start()], origin[match.start() + len(gram) - 1] + 1))
    return [any(c in marked and not text[c].isspace() for c in range(*span)) for span in spans]


def _fold(character: str) -> str:
    if character.isspace():
        return " "
    return {"‘": "'", "’": "'", "“": '"', "”": '"', "İ": "i"}.get(character, character.lower())


@pytest.fixture(scope="session")
def slow_mask() -> Callable[..., list[bool]]:
    """The rules of the mask by single characters and one regular expression for each (lower-case) gram."""
    return _slow_mask
