"""The planning mask against a reference that shares no code with it, over more than 100 000 responses.

The reference is one regular expression on the decoded text. It knows the tokenizer only by the bytes of its tokens.
Each response is matched by itself: RESPONSES sampled and EXAMPLES made by hypothesis for every tokenizer of TOKENIZERS.
"""

from __future__ import annotations

import codecs
import random
import re
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mmhicra.core.errors import UserError
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher

pytestmark = pytest.mark.slow

RESPONSES = 21_000
EXAMPLES = 400
ROOT = Path(__file__).parents[2]
ODD_GRAMS = (
    "因此", "我们 先看图", "🙂 ok", "cafe\u0301", "¿por qué?", "e.g.", "x = 3", "it’s “so”", "--", "naïve idea",
    "\\frac{1", "step 1:", "_so_", "K", "i",
)  # fmt: skip
LIBRARY = (
    GramLibrary.load("published_249")
    .merge(GramLibrary.load("strategy_chunks"))
    .merge(GramLibrary("odd", tuple(Gram(text) for text in ODD_GRAMS)))
)
GRAMS = [gram.text for gram in LIBRARY.grams]
FILLERS = (
    "some", "also", "sober", "nextdoor", "but-ton", "wait2", "2so", "so_far", "triangle", "ABC", "42.0", "3,5",
    "x=3", "$5", "\\frac{1}{2}", "$$x^2$$", "\\boxed{so}", "`", "**", "--", "?", "!", "(", ")", '"', "’", "'",
    "＇", "“so”", "s't", "🙂", "👩\u200d👧", "🇨🇭", "✅", "一共", "因此", "我们", "先", "图", "ね", "한국", "façade",
    "naïve", "e\u0301", "so\u0301", "\u0338", "İstanbul", "İF", "ΣΟΦΟΣ", "\u212a", "ſo", "ß", "\u00adso",
    "\ufeff", "\u200b", "\x00", "\ufffd", "\ufffe", "\U00010400", "<think>", "</think>", "<|im_end|>",
    "<answer>",
)  # fmt: skip
GAPS = (
    "", " ", " ", " ", " ", "  ", "\n", "\n\n", "\t", ", ", ". ", "\u00a0", "\r\n", "\u3000", "\u2028", "\x1c", "\x85",
)  # fmt: skip
QUOTES = {"'": "'‘’‛′ʼ＇", '"': '"“”‟″＂'}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(size: int, split: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """Byte-level BPE, trained on the project's own prose and the odd characters above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    texts = ("README.md", "LICENSE", "docs/explanation/architecture.md")
    prose = [(ROOT / text).read_text() for text in texts]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*prose, *GRAMS, " ".join(FILLERS)], trainer)
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def byte_level(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def qwen2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"), byte_level(use_regex=False)])


TOKENIZERS = {
    "tiny VLM": lambda: Tokenizer.from_file(str(ROOT / "assets/tiny_vlm/tokenizer.json")),
    "single bytes": lambda: train(256, byte_level(use_regex=True)),
    "GPT-2 split": lambda: train(4000, byte_level(use_regex=True)),
    "Qwen2 split, NFC": lambda: train(1500, qwen2(), normalizers.NFC()),
    "across words": lambda: train(3000, byte_level(use_regex=False)),
}
CARRIED = [
    Path(str(file.locate()))
    for package in distributions()
    if package.name != "mmhicra"
    for file in package.files or ()
    if file.name == "tokenizer.json" and file.locate().exists()  # pyright: ignore[reportAttributeAccessIssue]
]
"""Those that installed packages carry."""


@cache
def fold(character: str) -> str:
    return next((straight for straight, forms in QUOTES.items() if character in forms), character.lower()[0])


def pattern_of(grams: list[str]) -> re.Pattern[str]:
    """At every place, what the longest gram that begins there covers: the grams' union, overlaps and all."""
    spelt = [
        r"\s+".join(map(re.escape, "".join(map(fold, gram)).split())) for gram in sorted(grams, key=len, reverse=True)
    ]
    ended = [gram + (r"(?!\w)" if re.search(r"\w\Z", gram) else "") for gram in spelt]
    in_words = "|".join(gram for gram in ended if re.match(r"\w", gram))
    others = "|".join(gram for gram in ended if not re.match(r"\w", gram))
    return re.compile(rf"(?=((?<!\w)(?:{in_words})|(?:{others})))")


PATTERN = pattern_of(GRAMS)


class Reference:
    """Token ids -> their text and mask, byte by byte and character by character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        self.walls = {number: token.content.encode() for number, token in tokenizer.get_added_tokens_decoder().items()}
        vocabulary = tokenizer.get_vocab(with_added_tokens=False).items()
        self.pieces = {number: bytes(byte_of[c] for c in token) for token, number in vocabulary} | self.walls

    def mask(self, ids: list[int]) -> tuple[str, list[bool]]:
        decoder, text, owners, walled = codecs.getincrementaldecoder("utf-8")("replace"), "", [], []
        for number in ids:
            owners.append(own := set())
            for byte in self.pieces[number]:
                text += decoder.decode(bytes([byte]))
                own.add(len(text) - (not decoder.getstate()[0]))  # the pending character, else the last one
            walled += own if number in self.walls else ()
        text += decoder.decode(b"", final=True)
        seen = list(map(fold, text))
        for place in walled:
            seen[place] = "\0"
        marked: set[int] = set()
        for match in PATTERN.finditer("".join(seen)):
            marked.update(range(*match.span(1)))
        return text, [any(place in marked and not text[place].isspace() for place in own) for own in owners]


def sample(rng: random.Random) -> str:
    """Some grams in odd shapes among words, LaTeX, emoji, CJK and combining marks."""
    text = ""
    for _ in range(rng.randrange(1, 6)):
        piece = rng.choice(GRAMS if rng.random() < 0.55 else FILLERS)
        match rng.randrange(12):
            case 0:
                piece = piece.upper()
            case 1 | 2:
                piece = piece.capitalize()
            case 3:
                piece = piece.replace("'", rng.choice(QUOTES["'"])).replace('"', rng.choice(QUOTES['"']))
            case 4 | 5:
                piece = piece.replace(" ", rng.choice(GAPS))
            case 6:
                piece = piece[rng.randrange(len(piece)) :]
            case 7:
                piece = piece[: -rng.randrange(1, 3)]
        text += piece + rng.choice(GAPS)
    return text


def damage(rng: random.Random, ids: list[int], known: list[int]) -> list[int]:
    """What a tokenizer would not choose: tokens lost, repeated or put between; UTF-8 breaks at their borders."""
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(ids) + 1)
        match rng.randrange(3):
            case 0:
                del ids[place : place + rng.randrange(1, 3)]
            case 1:
                ids[place:place] = ids[place - 2 : place + 1]
            case _:
                ids[place:place] = rng.choices(known, k=rng.randrange(1, 4))
    return ids


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


@pytest.fixture(autouse=True)
def as_in_large_lists(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two tokenizers grams are looked up as in a list of 100 000."""
    if any(name in request.node.name for name in ("tiny VLM", "GPT-2 split")):
        monkeypatch.setattr("mmhicra.hicra.search.MANY", 0)


def test_there_are_more_than_100_000_responses():
    assert RESPONSES * len(TOKENIZERS) > 100_000


def test_the_mask_of_sampled_responses_equals_the_reference(tokenizer):
    rng, reference, matcher = random.Random(0), Reference(tokenizer), PlanningMatcher(LIBRARY, tokenizer)
    encodings = tokenizer.encode_batch_fast([sample(rng) for _ in range(RESPONSES)], add_special_tokens=False)
    known, mixed, broken = sorted(reference.pieces), 0, 0
    for number, encoding in enumerate(encodings):
        ids = encoding.ids if number % 3 else damage(rng, encoding.ids, known)
        text, expected = reference.mask(ids)
        assert matcher.mask(ids).tolist() == expected, text
        mixed += 0 < sum(expected) < len(ids)
        broken += "\ufffd" in text
    assert mixed > RESPONSES / 2
    assert broken > RESPONSES / 20


def test_the_mask_of_anything_equals_the_reference(tokenizer):
    reference, matcher = Reference(tokenizer), PlanningMatcher(LIBRARY, tokenizer)
    piece = st.sampled_from(GRAMS) | st.text(max_size=5) | st.sampled_from([*GAPS, *FILLERS])

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(
        st.lists(piece, max_size=8), st.lists(st.sampled_from(sorted(reference.pieces)), max_size=6), st.integers(0, 9)
    )
    def check(pieces: list[str], drawn: list[int], place: int) -> None:
        ids = tokenizer.encode("".join(pieces), add_special_tokens=False).ids
        ids[place:place] = drawn
        text, expected = reference.mask(ids)
        assert text == tokenizer.decode(ids, skip_special_tokens=False)
        assert matcher.mask(ids).tolist() == expected

    check()


@pytest.mark.parametrize("path", CARRIED, ids=lambda path: path.parts[-3])
def test_tokenizers_that_packages_carry_agree_or_are_refused(path):
    tokenizer = Tokenizer.from_file(str(path))
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        with pytest.raises(UserError, match="byte-level"):
            PlanningMatcher(LIBRARY, tokenizer)
        return
    test_the_mask_of_sampled_responses_equals_the_reference(tokenizer)
