"""The chat template: whether everyone who reads the model's folder renders the same chat, one this model knows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils.hub import cached_file

from mmhicra.config import RunConfig
from mmhicra.doctor.findings import CheckResult, Remedy
from mmhicra.vlm.chat import ChatTemplateError, render_chat, template_arguments, template_of
from mmhicra.vlm.loading import LoadedProcessor

FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")
"""The files of a model that may hold a template. Libraries and servers do not agree on which of them comes first."""

MARKER = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
"""Control tokens that templates put around turns."""

REPLY = "42"
QUESTION: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many are there?"}]}
]
ANSWERED: list[dict[str, Any]] = [*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": REPLY}]}]


def check_template(config: RunConfig, loaded: LoadedProcessor) -> CheckResult:
    """Render a chat with an image by every template the folder holds, and see that the model knows its marks."""
    check = CheckResult("template", "Chat template")
    used, options = template_of(loaded.processor), config.data.chat_template_kwargs
    chat = render(loaded.processor, used, QUESTION, options)
    if isinstance(chat, ChatTemplateError):
        check.passable = False
        check.blame(
            "chat template", f"the chat template of {config.model.path} does not render: {chat}", _mend(loaded.path)
        )
        return check
    found = templates_in(loaded.path)
    check.facts = {"files": sorted(found), "chat": chat}
    for file, text in found.items():
        other = render(loaded.processor, text, QUESTION, options)
        if text != used and other != chat:
            check.blame(
                "chat template differs",
                f"{loaded.path}: {file} holds another chat template than training uses: {_differ(chat, other)}; an "
                "engine or a server that reads it sees another prompt",
                Remedy(words=f"put the template of training into {file}, or take it out of there"),
            )
    strange = [mark for mark in dict.fromkeys(MARKER.findall(chat)) if not _is_token(loaded.tokenizer, mark)]
    if strange:
        check.blame(
            "chat template differs",
            f"the chat template of {config.model.path} writes {', '.join(strange)}, which are no tokens of this model: "
            "it belongs to another one",
            _mend(loaded.path),
        )
    else:
        _check_end(check, config, loaded, used)
    files = ", ".join(found) or "the tokenizer"
    check.summary = f"in {files}: {len(chat)} characters around a short question with an image"
    return check


def templates_in(path: str) -> dict[str, str]:
    """File name -> the template it holds, of a folder or a hub id."""
    found: dict[str, str] = {}
    for name in FILES:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is None:
            continue
        text = Path(file).read_text(encoding="utf-8")
        held: Any = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        if isinstance(held, list):  # named templates; `default` is the one for chats
            held = next((entry["template"] for entry in held if entry["name"] == "default"), None)
        if held:
            found[name] = str(held)
    return found


def render(
    processor: Any, template: str, messages: list[dict[str, Any]], options: Mapping[str, Any] | None = None
) -> str | ChatTemplateError:
    """The chat up to where the response begins, with what the template reads of `options`, or why there is none."""
    last = messages[-1]["role"] == "user"
    try:
        read = template_arguments(template, processor) if options else ()
        given = {name: value for name, value in (options or {}).items() if name in read}
        return render_chat(processor, messages, chat_template=template, add_generation_prompt=last, **given)
    except ChatTemplateError as error:
        return error


def _check_end(check: CheckResult, config: RunConfig, loaded: LoadedProcessor, template: str) -> None:
    """A response is over at the token that closes the assistant's turn: sampling has to stop there."""
    whole = render(loaded.processor, template, ANSWERED)
    tail = "" if isinstance(whole, ChatTemplateError) else whole.rpartition(REPLY)[2]
    ids = loaded.tokenizer.encode(tail, add_special_tokens=False)
    closes = loaded.tokenizer.convert_ids_to_tokens(ids[:1])
    stops = {*_end_tokens(loaded), *config.rollout.stop_tokens}
    check.facts |= {"closes": closes, "stops": sorted(stops)}
    if not set(closes) & stops:
        said = f"closes a response with {closes[0]!r}" if closes else "does not close a response"
        remedies = [Remedy("rollout.stop_tokens", [*config.rollout.stop_tokens, *closes])] if closes else []
        check.blame(
            "chat template differs",
            f"the chat template of {config.model.path} {said}, but sampling stops at {', '.join(sorted(stops))}: "
            "responses would never end",
            *remedies,
            _mend(loaded.path),
        )


def _end_tokens(loaded: LoadedProcessor) -> list[str]:
    """The same as `LoadedModel.end_token_ids`, before the weights are loaded."""
    own: Any = loaded.tokenizer.eos_token_id
    ends: Any = None
    if cached_file(loaded.path, "generation_config.json", _raise_exceptions_for_missing_entries=False):
        ends = GenerationConfig.from_pretrained(loaded.path).eos_token_id
    ids = {end for end in (*(ends if isinstance(ends, list) else [ends]), own) if end is not None}
    return [str(token) for token in loaded.tokenizer.convert_ids_to_tokens(sorted(ids))]


def _is_token(tokenizer: Any, mark: str) -> bool:
    return len(tokenizer.encode(mark, add_special_tokens=False)) == 1


def _differ(chat: str, other: str | ChatTemplateError) -> str:
    """The first place where two chats part."""
    if isinstance(other, ChatTemplateError):
        return f"it does not render ({other})"
    place = next((i for i, (a, b) in enumerate(zip(chat, other, strict=False)) if a != b), min(len(chat), len(other)))
    return f"at character {place} {other[place : place + 24]!r} in the place of {chat[place : place + 24]!r}"


def _mend(path: str) -> Remedy:
    return Remedy(words=f"fetch the template of this very model again into {path}/chat_template.jinja")
