"""Where a response ends that is stopped by a string, the same in every engine.

    stop string   </answer>
    tokens        42   </   answer   >\\n\\n   and ...
    response      42   </   answer   >\\n\\n           the token that completes the string stays, whole

Strings are found in the bytes that tokens write (`hicra.spans.token_table`): a string is in the bytes of a response if
and only if it is in its text, since UTF-8 is self-synchronising, and bytes need no decoding of half characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmhicra.hicra.spans import token_table


class StopStrings:
    """Finds the first token with which a response contains one of several strings. V tokens of the tokenizer.

    Args:
        strings: not empty, none of them empty.
        tokenizer: a byte-level BPE fast tokenizer.

    Raises:
        UserError: the tokenizer is of another kind.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        self.strings = tuple(strings)
        self.stops = [string.encode() for string in strings]
        self.pieces = token_table(tokenizer).pieces
        self.longest = max(map(len, self.stops))

    @cached_property
    def may_complete(self) -> Tensor:
        """(V + 1,) bool: tokens that can be the last of a stop string; few do."""
        ends = tuple({stop[-count:] for stop in self.stops for count in range(1, len(stop) + 1)})
        return torch.tensor([piece.startswith(ends) or any(s in piece for s in self.stops) for piece in self.pieces])

    def candidates(self, tokens: Tensor) -> Tensor:
        """(R,) tokens -> (R,) bool, which of them can be the last of a stop string."""
        self.may_complete = self.may_complete.to(tokens.device)
        return self.may_complete[tokens.clamp(max=len(self.pieces) - 1)]

    def completed(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` completes a stop string; the bytes before it are read as far back as is needed."""
        last = self._piece(ids[-1])
        before = b""
        for token in reversed(ids[:-1]):
            if len(before) >= self.longest - 1:
                break
            before = self._piece(token) + before
        return any(stop in before[-(len(stop) - 1) :] + last if len(stop) > 1 else stop in last for stop in self.stops)

    def length(self, ids: Sequence[int]) -> int | None:
        """How many of `ids` there are up to the first that completes a stop string; None if none does."""
        written = [self._piece(token) for token in ids]
        data = b"".join(written)
        ends = [at + len(stop) for stop in self.stops if (at := data.find(stop)) >= 0]
        if not ends:
            return None
        end, length = 0, 0
        while end < min(ends):
            end += len(written[length])
            length += 1
        return length

    def _piece(self, token: int) -> bytes:
        return self.pieces[min(token, len(self.pieces) - 1)]  # the table ends with an unused id
