"""Rendering a model's chat template, which is somebody else's program: it may raise, and it may never end.

A template has loops but no `while`, so what never ends are loops within loops. Its steps are counted while it runs. A
child process with a time limit would stop a template too, but costs half a second at every load, and could only try one
chat at load: the loops may depend on the question.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2 import meta
from transformers.utils import chat_template_utils

from mmhicra.core.errors import one_line

MOST_STEPS = 200_000
"""Lines of compiled template for one chat; Qwen's take about 100 for a question with an image."""
MOST_SECONDS = 10.0
"""Of this thread's processor time for one chat; templates take milliseconds."""
_TEMPLATE = "<template>"
"""The file name that Jinja gives to compiled templates that come from no file."""


_GIVEN = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("raise_exception", "strftime_now"),
        *(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")),
    }
)
"""What a template reads that mmhicra or transformers give it."""


class ChatTemplateError(Exception):
    """A chat template that raises, or does not end. The message is one line."""


def render_chat(processor: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """The text of a chat by the processor's template.

    Args:
        processor: with a chat template.
        messages: of the chat.
        options: of transformers' `apply_chat_template`, e.g. `add_generation_prompt`.

    Raises:
        ChatTemplateError: the template raises, does not end or gives no text.
    """
    try:
        with _limited():
            chat = processor.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # whatever a template raises: undefined names, wrong types, its own refusals
        reason = str(error) if isinstance(error, ChatTemplateError) else f"{type(error).__name__}: {error}"
        raise ChatTemplateError(one_line(reason, 200)) from error
    if not isinstance(chat, str):
        raise ChatTemplateError(f"it gives a {type(chat).__name__} instead of text")
    return chat


def template_arguments(template: str, processor: Any) -> list[str]:
    """What a chat template reads beside the chat and the names of special tokens, e.g. `enable_thinking`.

    Args:
        template: Jinja as transformers renders it.
        processor: with the tokenizer whose special tokens are given to the template.

    Raises:
        ChatTemplateError: it is no template.
    """
    try:
        environment = chat_template_utils._compile_jinja_template(template).environment
        read = meta.find_undeclared_variables(environment.parse(template))
    except Exception as error:  # see `render_chat`
        raise ChatTemplateError(one_line(f"{type(error).__name__}: {error}", 200)) from error
    return sorted(read - _GIVEN - set(processor.tokenizer.special_tokens_map))


def template_of(processor: Any) -> str:
    """The template that a processor renders a chat by; it may have others under names of their own."""
    held = processor.chat_template
    return str(held.get("default", "")) if isinstance(held, dict) else str(held)


@contextmanager
def _limited() -> Iterator[None]:
    """Raises ChatTemplateError in the template that runs inside once it has taken too many steps or too long."""
    steps = 0
    start = time.thread_time()

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS or time.thread_time() - start > MOST_SECONDS:
            raise ChatTemplateError(f"it does not end ({steps} steps)")
        return count

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return count(frame, event, argument) if frame.f_code.co_filename == _TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
