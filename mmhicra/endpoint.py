"""A language model behind any OpenAI-compatible endpoint: replies kept on disk, asked again after failures, counted.

Judges of failures (`hicra.judges`) and of answers (`evaluate.judging`) ask through it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhicra.refusals import Refusal, RunFolderRefusal

if TYPE_CHECKING:
    import openai

GIVE_UP_AFTER = 3
"""Questions that an endpoint may turn away before it has taken one; then the mistake is not in the questions."""


class QuestionNotTakenError(Exception):
    """The endpoint turned one question away; the message says why."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        url: the base of an OpenAI-compatible API, e.g. `http://127.0.0.1:8000/v1`.
        model: the name the endpoint knows the judge by.
        api_key_env: the environment variable with the key; servers that want none need none.
        temperature: None leaves it to the endpoint.
        timeout: seconds to wait for one reply.
        retries: how often to ask again, with growing pauses, after 429, 5xx, timeouts and lost connections.
        concurrency: how many questions may be under way at a time.
    """

    url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = None
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 8


@dataclass
class Usage:
    """What the judging has cost so far; tokens are those of `requests`, as the endpoint reports them.

    Attributes:
        requests: questions that the endpoint answered in this run.
        cached: questions that had been asked before, by an earlier run or about an equal response.
        not_taken: questions that the endpoint did not take (HTTP 400, 413, 422).
        unreported: requests whose reply did not say how many tokens it took.
        prompt_tokens: of the questions.
        completion_tokens: of the replies.
        without_images: failures judged without their images because these were not found.
    """

    requests: int = 0
    cached: int = 0
    not_taken: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_images: int = 0

    def price(self, price_in: float, price_out: float) -> float:
        """Money, from prices per million tokens."""
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


@dataclass(frozen=True)
class Reply:
    """What an endpoint said to one question; token counts are None where it did not report them."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class ReplyCache:
    """Replies on disk, one JSON line each, written as they come: a run that was killed does not ask twice."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a kill cut short is taken off.

        Raises:
            RunFolderRefusal: another line is no reply.
        """
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._lock = threading.Lock()
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key."""
        return self._replies.get(key)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply, on disk before anything else is done with it."""
        line = json.dumps({"key": key, "model": model, **asdict(reply)}, ensure_ascii=False)
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            self._replies[key] = reply

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                kept = json.loads(line)
                reply = Reply(kept["text"], kept["prompt_tokens"], kept["completion_tokens"])
                self._replies[kept["key"]] = reply
            except (ValueError, KeyError, TypeError) as error:
                raise RunFolderRefusal(f"{self.path}, line {number} is no kept reply: delete that line") from error


class ChatEndpoint:
    """Asks the model; safe to call from several threads."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache) -> None:
        """Connect; nothing is sent yet.

        Args:
            endpoint: whom to ask.
            cache: replies of earlier runs, and where to keep those of this one.

        Raises:
            Refusal: the `openai` package is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise Refusal("a judge behind an endpoint needs the openai package: install mmhicra[judge]") from error
        self.endpoint = endpoint
        self.usage = Usage()
        self._cache = cache
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=endpoint.url,
            api_key=os.environ.get(endpoint.api_key_env) or "none",
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
        )

    def count_without_images(self) -> None:
        """One question more went without its images."""
        with self._lock:
            self.usage.without_images += 1

    def ask(self, messages: list[dict[str, Any]]) -> str:
        """The reply to a conversation, from the cache if it was asked before.

        Raises:
            QuestionNotTakenError: the endpoint does not take this one (HTTP 400, 413, 422: too long, filtered).
            Refusal: it cannot be reached, or turns all questions away.
        """
        request: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        if self.endpoint.temperature is not None:
            request["temperature"] = self.endpoint.temperature
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self._asking[key]:  # equal responses of one group make equal questions
            if kept := self._cache.get(key):
                with self._lock:
                    self.usage.cached += 1
                return kept.text
            reply = self._send(request)
            self._cache.put(key, self.endpoint.model, reply)
        with self._lock:
            self.usage.requests += 1
            self.usage.unreported += reply.prompt_tokens is None
            self.usage.prompt_tokens += reply.prompt_tokens or 0
            self.usage.completion_tokens += reply.completion_tokens or 0
        return reply.text

    def _send(self, request: Mapping[str, Any]) -> Reply:
        """One request with the client's own retries.

        Raises:
            Refusal: there is no use in asking further questions.
            QuestionNotTakenError: this question was not taken; another one may be.
        """
        from openai.types.chat import ChatCompletion

        url, kept = self.endpoint.url, f"{len(self._cache)} replies are kept in {self._cache.path}"
        try:
            response = self._client.chat.completions.create(**request)
        except (self._errors.AuthenticationError, self._errors.PermissionDeniedError) as error:
            raise Refusal(f"{url} refused the key: {_message(error)}; set {self.endpoint.api_key_env}") from error
        except self._errors.NotFoundError as error:
            raise Refusal(f"{url} has no model {self.endpoint.model!r}: {_message(error)}; mend both") from error
        except self._errors.APIStatusError as error:
            if error.status_code in (400, 413, 422):
                raise self._not_taken(_message(error)) from error
            raise Refusal(self._gave_up(_message(error))) from error
        except self._errors.APIConnectionError as error:
            raise Refusal(self._gave_up(f"{error} {error.__cause__ or ''}".strip())) from error
        except json.JSONDecodeError:
            response = None
        if not isinstance(response, ChatCompletion) or not response.choices:
            raise Refusal(f"{url} did not answer as an OpenAI-compatible endpoint: should it end in /v1? {kept}")
        usage = response.usage
        return Reply(
            response.choices[0].message.content or "",
            usage.prompt_tokens if usage else None,
            usage.completion_tokens if usage else None,
        )

    def _gave_up(self, reason: str) -> str:
        return (
            f"{self.endpoint.url} does not answer after {self.endpoint.retries} retries ({reason}); "
            f"{len(self._cache)} replies are kept in {self._cache.path}: run again to go on"
        )

    def _not_taken(self, reason: str) -> QuestionNotTakenError:
        with self._lock:
            self.usage.not_taken += 1
        if self.usage.not_taken >= GIVE_UP_AFTER and not len(self._cache):
            raise Refusal(f"{self.endpoint.url} takes no question for {self.endpoint.model!r}: {reason}")
        return QuestionNotTakenError(reason)


def _message(error: openai.APIStatusError) -> str:
    """What the endpoint said, on one line."""
    body = error.body if isinstance(error.body, dict) else {}
    return " ".join(str(body.get("message") or error.message).split())
