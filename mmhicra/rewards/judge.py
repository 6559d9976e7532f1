"""A language model as a term of the reward: asked about each response with a prompt of the user's, read strictly."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmhicra.config import JudgeConfig
from mmhicra.core.endpoint import ChatEndpoint, Endpoint, Reply, image_part
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Completion, Problem, RewardRecord
from mmhicra.rewards.answers import final_text
from mmhicra.rewards.calls import Calls
from mmhicra.rewards.custom import CustomTerm, Patience
from mmhicra.rewards.replies import StepCache

PLACEHOLDERS = ("question", "choices", "gold", "response", "facts", "facts.NAME")
"""What a prompt may name in braces."""
REMINDER = "Your score could not be read. Give it again: {scale}, and nothing else."
LONGEST_RESPONSE = 20_000
"""Characters of a response, from its end, that a judge is shown."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(?:\.([A-Za-z_]\w*))?\}")
_OBJECT = re.compile(r"\{[^{}]*\}\s*\Z")
_WORDS = {"yes": 1.0, "no": 0.0}


class UnreadScore(Exception):
    """A judge gave no score, when it was asked once more, too."""


class Judge:
    """Asks about responses; safe to call from several threads.

    Raises:
        ConfigError: the prompt's file, the address or the key cannot be used.
        UserError: the `openai` package is not installed.
    """

    def __init__(self, settings: JudgeConfig, cache: StepCache) -> None:
        self.settings = settings
        self.low, self.high = float(settings.scale[0]), float(settings.scale[1])
        self.prompt = read_prompt(settings.prompt, settings.name)
        self.cache = cache
        self.chat = ChatEndpoint(
            Endpoint(
                settings.url,
                settings.model,
                settings.api_key_env,
                settings.temperature,
                settings.timeout,
                settings.retries,
                settings.concurrency,
                settings.requests_per_minute,
            ),
            cache,
        )
        self._lock = threading.Lock()
        self._asked: dict[str, Reply] = {}
        self._questions = 0
        self._told_retries = 0
        self._images: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, problem: Problem, completion: Completion, record: RewardRecord) -> float:
        """The score of a response, from 0 at the lower end of the scale to 1 at the upper.

        Raises:
            UnreadScore: neither the reply nor the one to a reminder is a score.
            QuestionNotTakenError: the endpoint does not take the question.
            UserError: it cannot be reached.
        """
        text = fill_prompt(self.prompt, problem, completion.text, self.settings.name)
        images = self._parts(problem) if self.settings.images else []
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "text", "text": text}, *images] if images else text}
        ]
        reply = self._ask(messages)
        score = read_score(reply, self.low, self.high)
        if score is None:
            reminder = REMINDER.format(scale=f"a number from {self.low:g} to {self.high:g}")
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": reminder}]
            again = self._ask(messages)
            score = read_score(again, self.low, self.high)
            if score is None:
                said = " ".join(again.split())[-80:]
                raise UnreadScore(f"no score from {self.low:g} to {self.high:g} in its last line: ...{said!r}")
        return (score - self.low) / (self.high - self.low)

    def begin_step(self, step: int) -> None:
        """Replies are kept as those of `step` from now on."""
        self.cache.begin_step(step)
        self._images.clear()

    def take_usage(self) -> dict[str, float]:
        """What was asked since the last call of this method, whether by this start of the run or by one before it."""
        with self._lock:
            asked, questions = self._asked, self._questions
            self._asked, self._questions = {}, 0
        new = [reply for key, reply in asked.items() if self.cache.step_of(key) == self.cache.step]
        retries = self.chat.retries
        usage: dict[str, float] = {
            "requests": len(new),
            "cached": questions - len(new),
            "retries": retries - self._told_retries,
            "prompt_tokens": sum(reply.prompt_tokens or 0 for reply in new),
            "completion_tokens": sum(reply.completion_tokens or 0 for reply in new),
            "tokens_unreported": sum(reply.prompt_tokens is None for reply in new),
        }
        self._told_retries = retries
        price_in, price_out = self.settings.price_in, self.settings.price_out
        if price_in is not None and price_out is not None:
            usage["cost"] = (usage["prompt_tokens"] * price_in + usage["completion_tokens"] * price_out) / 1e6
        return usage

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        key, reply = self.chat.reply(messages)
        with self._lock:
            self._asked[key] = reply
            self._questions += 1
        return reply.text

    def _parts(self, problem: Problem) -> list[dict[str, Any]]:
        with self._lock:  # the responses of a group come together, and an image is encoded once
            if problem.id not in self._images:
                self._images[problem.id] = [image_part(image) for image in problem.images]
            return self._images[problem.id]


class JudgeTerm(CustomTerm):
    """A judge as a term of the reward; what it counts is a custom function's, and its usage."""

    function: Judge

    @property
    def spares_lost(self) -> bool:
        """A judge is asked about all responses of a group: what a step costs does not depend on their order."""
        return False

    def take_counts(self) -> dict[str, float]:
        """As of a custom function, and what the endpoint was asked."""
        return {**super().take_counts(), **self.function.take_usage()}


def load_judges(settings: Sequence[JudgeConfig], calls: Calls, folder: Path | None, rank: int) -> list[JudgeTerm]:
    """The judges of a configuration.

    Args:
        settings: the judges.
        calls: makes the calls.
        folder: where their replies are kept; None keeps them in memory.
        rank: of this process.

    Raises:
        ConfigError: one cannot be used as it is configured.
        RunFolderError: what is kept of its replies cannot be read.
        UserError: the `openai` package is not installed.
    """
    terms = []
    for each in settings:
        judge = Judge(each, StepCache(folder, each.name, rank))
        patience = Patience(limit=_patience(each), at_a_time=each.concurrency)
        label = f"the judge {each.name}"
        terms.append(JudgeTerm(each.name, label, judge, each.weight, patience, calls, culprit="judge"))
    return terms


def _patience(settings: JudgeConfig) -> float:
    """Seconds after which a judge's answer is not waited for any more, though its connection is alive.

    Two questions with all their retries, each at most twice its time limit with the pauses between, and the turns that
    a limit of requests in a minute makes it wait for.
    """
    requests = 2 * (settings.retries + 1)
    turns = 60.0 * requests * settings.concurrency / settings.requests_per_minute if settings.requests_per_minute else 0
    return requests * (2 * settings.timeout + 10.0) + turns


def read_prompt(path: str, name: str) -> str:
    """The prompt in a file.

    Raises:
        ConfigError: the file cannot be read, does not name the response, or names what there is not.
    """
    where = f"reward.judges: the prompt of {name}, {path},"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(f"{where} cannot be read: {reason}") from None
    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
    for found in _PLACEHOLDER.finditer(text):
        if found[1] not in PLACEHOLDERS or (found[2] and found[1] != "facts"):
            raise ConfigError(f"{where} names {found[0]}, which there is not: it may name {known}")
    if "{response}" not in text:
        raise ConfigError(f"{where} does not say where the response stands: write {{response}} there")
    return text


def fill_prompt(prompt: str, problem: Problem, response: str, name: str) -> str:
    """The prompt about one response; braces that are no placeholder stay, in what is filled in, too.

    The response is shown without its thinking, its end if it is very long.

    Raises:
        ConfigError: the problem does not have a fact that the prompt names.
    """
    final = final_text(response)
    values = {
        "question": problem.question.replace(IMAGE_PLACEHOLDER, "").strip(),
        "choices": "\n".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, problem.choices, strict=False)),
        "gold": problem.answer,
        "response": (response if final is None else final)[-LONGEST_RESPONSE:],
    }

    def fill(found: re.Match[str]) -> str:
        if found[1] != "facts":
            return values[found[1]]
        if not found[2]:
            return json.dumps(dict(problem.facts), ensure_ascii=False, default=str)
        if found[2] not in problem.facts:
            raise ConfigError(
                f"the prompt of the judge {name} names {found[0]}, which problem {problem.id} has not: read that "
                "column by data.columns.facts"
            )
        return str(problem.facts[found[2]])

    return _PLACEHOLDER.sub(fill, prompt).encode("utf-8", "backslashreplace").decode("utf-8")


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_score(reply: str, low: float, high: float) -> float | None:
    """The score in the last line of a reply, any thinking left out; None if there is none on the scale.

    It is a number, `yes` (`high`) or `no` (`low`), bold or with a full stop or not; or the reply ends with a JSON
    object that has it as its `score`.
    """
    text = (final_text(reply) or "").strip().removesuffix("```").strip()
    found = _OBJECT.search(text)
    if found:
        try:
            value = json.loads(found[0]).get("score")
        except (ValueError, RecursionError):
            return None
    else:
        value = (text.splitlines() or [""])[-1].strip().strip("*`_").strip().removesuffix(".").strip()
    if isinstance(value, str):
        if value.lower() in _WORDS:
            return high if _WORDS[value.lower()] else low
        if not re.fullmatch(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})", value):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if low <= value <= high else None
