"""Which characters of a response each generated token wrote, exactly, from the tokens' own bytes.

Neither searching the decoded text for a token nor tokenising the text again is exact: a character may be
spread over several tokens, and sampled tokens need not be the ones a tokenizer would choose for their text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders

from mmhicra.core.errors import UserError

if TYPE_CHECKING:
    import torch

Ids: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor"

_UNKNOWN = "\ufffd".encode()
_CHARACTER = re.compile(
    rb"""[\xc2-\xdf][\x80-\xbf]?
    | \xe0(?:[\xa0-\xbf][\x80-\xbf]?)? | \xed(?:[\x80-\x9f][\x80-\xbf]?)? | [\xe1-\xef][\x80-\xbf]{0,2}
    | \xf0(?:[\x90-\xbf][\x80-\xbf]{0,2})? | \xf4(?:[\x80-\x8f][\x80-\xbf]{0,2})?
    | [\xf1-\xf3][\x80-\xbf]{0,3} | .""",
    re.DOTALL | re.VERBOSE,
)
"""The bytes of one decoded character: a UTF-8 sequence or as much of one as is there (Unicode table 3-7)."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What each id of a byte-level BPE tokenizer writes.

    Attributes:
        size: how many tokens the tokenizer had when the table was made.
        pieces: the bytes of every id; an added token writes its literal text, an unused id U+FFFD.
        lengths: (V,) int64, the lengths of `pieces`.
        structural: (V,) bool, added tokens (special or not) and unused ids: no text is read across them.
    """

    size: int
    pieces: list[bytes]
    lengths: NDArray[np.int64]
    structural: NDArray[np.bool_]


_tables: WeakKeyDictionary[Tokenizer, TokenTable] = WeakKeyDictionary()


def token_table(tokenizer: Any) -> TokenTable:
    """The table of a `transformers` fast tokenizer or a `tokenizers.Tokenizer`; made again only if it grew.

    Raises:
        UserError: the tokenizer is not byte-level BPE.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    kind = type(tokenizer).__name__
    if not isinstance(backend, Tokenizer):
        raise UserError(f"tokenizer {kind}: not a fast tokenizer: pass one (of a processor, its .tokenizer)")
    table = _tables.get(backend)
    if table is None or table.size != backend.get_vocab_size():
        if not isinstance(backend.decoder, decoders.ByteLevel):
            decoder = type(backend.decoder).__name__
            raise UserError(f"tokenizer {kind}: its decoder is {decoder}, not ByteLevel: use one of byte-level BPE")
        table = _tables[backend] = _make_table(backend)
    return table


def token_spans(ids: Ids, tokenizer: Any) -> tuple[str, NDArray[np.int64]]:
    """The text of R generated ids and, per token, the span of the characters it wrote at least one byte of.

    The text is `tokenizer.decode(ids)` without any clean-up: special tokens literal, broken UTF-8 as U+FFFD.
    Ids beyond the vocabulary (padding rows of the embedding), which `decode` drops, are U+FFFD too. A
    character spread over several tokens is in the span of each of them.

    Returns:
        The text and an (R, 2) array of starts and exclusive ends; neither column ever decreases.

    Raises:
        UserError: the tokenizer is not byte-level BPE.
        ValueError: ids are not one row, or one is negative.
    """
    text, spans, _ = read_tokens(ids, token_table(tokenizer))
    return text, spans


def read_tokens(ids: Ids, table: TokenTable) -> tuple[str, NDArray[np.int64], NDArray[np.bool_]]:
    """`token_spans` from a table, and (R,) bool: which of the tokens are structural."""
    index = np.asarray(ids, dtype=np.int64)
    if index.ndim != 1:
        raise ValueError(f"token ids must have shape (R,), one response at a time, got {index.shape}")
    if index.size and index.min() < 0:
        raise ValueError(f"token id {index.min()} at {index.argmin()}: give generated ids only, without padding")
    index = np.minimum(index, len(table.pieces) - 1)  # the table ends with an unused id
    data = b"".join(map(table.pieces.__getitem__, index.tolist()))
    text, character = decode_bytes(data)
    after = np.cumsum(table.lengths[index])
    before = after - table.lengths[index]
    ends = np.where(after > 0, character[after - 1] + 1, 0)
    starts = np.where(after > before, character[before], ends)
    return text, np.stack([starts, ends], axis=1), table.structural[index]


def decode_bytes(data: bytes) -> tuple[str, NDArray[np.int64]]:
    """Decode UTF-8, malformed sequences to U+FFFD as `errors="replace"` does, and say which byte went where.

    Returns:
        The text, and for each of the bytes and for the end of `data` the index of its character in the text.
    """
    first = np.ones(len(data) + 1, dtype=np.int64)
    first[:-1] = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        first[:-1] = 0
        first[[match.start() for match in _CHARACTER.finditer(data)]] = 1
    return text, np.cumsum(first) - 1


def _make_table(backend: Tokenizer) -> TokenTable:
    byte_of = _byte_alphabet()
    added = backend.get_added_tokens_decoder()
    tokens = {index: token for token, index in backend.get_vocab(with_added_tokens=False).items()}
    tokens |= {index: token.content for index, token in added.items()}
    pieces = [_UNKNOWN] * (max(tokens, default=-1) + 2)
    structural = np.ones(len(pieces), dtype=np.bool_)
    for index, token in tokens.items():
        pieces[index] = _token_bytes(token, byte_of)
        structural[index] = index in added
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return TokenTable(backend.get_vocab_size(), pieces, lengths, structural)


def _token_bytes(token: str, byte_of: dict[str, int]) -> bytes:
    """As the ByteLevel decoder has it: a token with any character outside the alphabet stands for itself."""
    try:
        return bytes(map(byte_of.__getitem__, token))
    except KeyError:
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters that write bytes in byte-level BPE vocabularies (GPT-2's table).

    Printable Latin-1 characters stand for themselves, the characters from U+0100 on for the other 68 bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
