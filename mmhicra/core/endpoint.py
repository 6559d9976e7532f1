"""A language model behind any OpenAI-compatible endpoint: replies kept on disk, asked again after failures, counted.

Judges of failures (`analysis.judges`), of answers (`evaluate.scoring.judging`) and of rewards (`rewards.judge`) ask
through it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from mmhicra.core.errors import ConfigError, RunFolderError, UserError, brief, one_line
from mmhicra.core.extras import missing_line
from mmhicra.core.records import ProblemImage

if TYPE_CHECKING:
    import openai

HIDDEN = "***"
"""The text that replaces a secret."""
_LIKE_A_KEY = re.compile(
    r"((?:bearer|basic)\s+)\S{6,}|\b(?:sk|pk|hf|gsk|xai)[-_][\w*.-]{6,}|(?<=://)[^/\s@]+(?=@)", re.I
)
GIVE_UP_AFTER = 3
"""Questions that an endpoint may turn away before it has taken one; then the mistake is not in the questions."""


class QuestionNotTakenError(Exception):
    """The endpoint turned one question away; the message says why."""


@dataclass(frozen=True)
class Endpoint:
    """The address of a language model, and how it is asked.

    Attributes:
        url: the base of an OpenAI-compatible API, e.g. `http://127.0.0.1:8000/v1`. It may have a user, a password and a
            query, which are used but never shown or stored.
        model: the name the endpoint knows the judge by.
        api_key_env: the environment variable with the key; servers that want none need none.
        temperature: None leaves it to the endpoint.
        timeout: seconds to wait for one reply.
        retries: how often to ask again, with growing pauses, after 429, 5xx, timeouts and lost connections.
        concurrency: how many questions may be under way at a time.
        requests_per_minute: how many requests may be sent in a minute, repeated ones included; None for no limit.
    """

    url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = None
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 8
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            ConfigError: the URL, a number or the key is none; names it, without what is secret of it.
        """
        try:
            parts = urlsplit(self.url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an address that is none
            whole = False
        if not whole or not self.url.isprintable() or " " in self.url or not self.url.isascii():
            raise ConfigError(f"judge {one_line(self.shown, 120)}: give a URL such as http://127.0.0.1:8000/v1")
        if self.concurrency < 1 or self.retries < 0 or not 0 < self.timeout < 1e6:
            raise ConfigError(
                f"judge {self.shown}: concurrency ({self.concurrency}) must be at least 1, retries ({self.retries}) "
                f"at least 0, and timeout ({self.timeout}) seconds above 0"
            )
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise ConfigError(f"the key in {self.api_key_env} holds a character that no key has: set it anew")

    @property
    def key(self) -> str:
        """The key from the environment; a stand-in where there is none, which servers that want none take."""
        return (os.environ.get(self.api_key_env) or "").strip() or "none"

    @property
    def shown(self) -> str:
        """The URL as it may be shown and stored: without user, password, query and fragment."""
        scheme, mark, rest = self.url.partition("://")
        place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}" if mark else self.url.rpartition("@")[2]

    @property
    def base(self) -> str:
        """The URL for requests, without its query: paths are put behind it."""
        return urlunsplit((*urlsplit(self.url)[:3], "", ""))

    @property
    def query(self) -> dict[str, str]:
        """The query of the URL, which goes with every request."""
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    def redact(self, text: str) -> str:
        """`text` with every secret of this endpoint replaced, and what looks like a key or a token."""
        parts = urlsplit(self.url)
        secrets = {self.key, parts.password, None if parts.password else parts.username, *self.query.values()}
        secrets |= {quote(secret, safe="") for secret in secrets if secret}
        secrets |= {unquote(secret) for secret in secrets if secret}
        for secret in sorted((s for s in secrets if s and len(s) > 2 and s != "none"), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return _LIKE_A_KEY.sub(lambda found: (found[1] or "") + HIDDEN, text)


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
            RunFolderError: another line is no reply, or the file cannot be read.
        """
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._lock = threading.Lock()
        try:
            if path.exists():
                self._read()
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error.strerror}): name another file for replies") from None

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key."""
        return self._replies.get(key)

    def facts(self, key: str) -> dict[str, Any]:
        """What the line of a reply says beside it."""
        return {}

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply, on disk before anything else is done with it.

        Raises:
            RunFolderError: it cannot be written.
        """
        line = json.dumps({"key": key, "model": model, **asdict(reply), **self.facts(key)}, ensure_ascii=False)
        try:
            with self._lock, self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
                self._replies[key] = reply
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written ({error.strerror}): free or name another") from None

    def _take(self, kept: Mapping[str, Any]) -> None:
        """Take up a kept line; raises KeyError or TypeError if it is none."""
        reply = Reply(kept["text"], kept["prompt_tokens"], kept["completion_tokens"])
        if not isinstance(reply.text, str):
            raise TypeError(f"text is {brief(reply.text)}")
        self._replies[kept["key"]] = reply

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RunFolderError(f"{self.path}, line {number} is no kept reply: delete that line") from error


def image_part(image: ProblemImage) -> dict[str, Any]:
    """An image as a part of a message; raises OSError if it cannot be read."""
    buffer = io.BytesIO()
    image.open().save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


class ChatEndpoint:
    """Asks the model; safe to call from several threads."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache) -> None:
        """Connect; nothing is sent yet.

        Args:
            endpoint: whom to ask.
            cache: replies of earlier runs, and where to keep those of this one.

        Raises:
            UserError: the `openai` package is not installed.
        """
        try:
            import openai
        except ImportError:
            raise UserError(missing_line("a judge behind an endpoint", ["openai"], "judge")) from None
        self.endpoint = endpoint
        self.usage = Usage()
        self._cache = cache
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._errors = openai
        self._next = 0.0  # when the next request may be sent, of time.monotonic()
        self.questions = 0
        self.sent = 0
        self._client = openai.OpenAI(
            base_url=endpoint.base,
            default_query=endpoint.query,
            api_key=endpoint.key,
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._wait_for_turn]}),
        )

    @property
    def retries(self) -> int:
        """How many requests only repeated one that failed."""
        return self.sent - self.questions

    def _wait_for_turn(self, request: object) -> None:
        """Count a request that is about to be sent, and hold it back as the limit of requests in a minute says."""
        with self._lock:
            self.sent += 1
            if self.endpoint.requests_per_minute is None:
                return
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60.0 / self.endpoint.requests_per_minute
        time.sleep(turn - now)

    def count_without_images(self) -> None:
        """One question more went without its images."""
        with self._lock:
            self.usage.without_images += 1

    def ask(self, messages: list[dict[str, Any]]) -> str:
        """The text of `reply`; raises as that does."""
        return self.reply(messages)[1].text

    def reply(self, messages: list[dict[str, Any]]) -> tuple[str, Reply]:
        """The reply to a conversation, from the cache if it was asked before, and the key that it has there.

        Raises:
            QuestionNotTakenError: the endpoint does not take this one (HTTP 400, 413, 422: too long, filtered).
            UserError: it cannot be reached, or turns all questions away.
        """
        request: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        if self.endpoint.temperature is not None:
            request["temperature"] = self.endpoint.temperature
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self._asking[key]:  # equal responses of one group make equal questions
            if kept := self._cache.get(key):
                with self._lock:
                    self.usage.cached += 1
                return key, kept
            reply = self._send(request)
            self._cache.put(key, self.endpoint.model, reply)
        with self._lock:
            self.usage.requests += 1
            self.usage.unreported += reply.prompt_tokens is None
            self.usage.prompt_tokens += reply.prompt_tokens or 0
            self.usage.completion_tokens += reply.completion_tokens or 0
        return key, reply

    def _send(self, request: Mapping[str, Any]) -> Reply:
        """One request with the client's own retries.

        Raises:
            UserError: there is no use in asking further questions.
            QuestionNotTakenError: this question was not taken; another one may be.
        """
        from openai.types.chat import ChatCompletion

        with self._lock:
            self.questions += 1
        url, kept = self.endpoint.shown, f"{len(self._cache)} replies are kept in {self._cache.path}"
        try:
            response = self._client.chat.completions.create(**request)
        except (self._errors.AuthenticationError, self._errors.PermissionDeniedError) as error:
            variable = self.endpoint.redact(self.endpoint.api_key_env)
            raise UserError(f"{url} refused the key: {self._message(error)}; set {variable}") from None
        except self._errors.NotFoundError as error:
            raise UserError(f"{url} has no model {self.endpoint.model!r}: {self._message(error)}; mend both") from None
        except self._errors.APIStatusError as error:
            if error.status_code in (400, 413, 422):
                raise self._not_taken(self._message(error)) from None
            raise UserError(self._gave_up(self._message(error))) from None
        except self._errors.APIConnectionError as error:
            said = self.endpoint.redact(f"{error} {error.__cause__ or ''}")
            raise UserError(self._gave_up(one_line(said))) from None
        except json.JSONDecodeError:
            response = None
        if not isinstance(response, ChatCompletion) or not response.choices:
            raise UserError(f"{url} did not answer as an OpenAI-compatible endpoint: should it end in /v1? {kept}")
        usage = response.usage
        return Reply(
            response.choices[0].message.content or "",
            usage.prompt_tokens if usage else None,
            usage.completion_tokens if usage else None,
        )

    def _gave_up(self, reason: str) -> str:
        return (
            f"{self.endpoint.shown} does not answer after {self.endpoint.retries} retries ({reason}); "
            f"{len(self._cache)} replies are kept in {self._cache.path}: run again to go on"
        )

    def _not_taken(self, reason: str) -> QuestionNotTakenError:
        with self._lock:
            self.usage.not_taken += 1
        if self.usage.not_taken >= GIVE_UP_AFTER and not len(self._cache):
            raise UserError(f"{self.endpoint.shown} takes no question for {self.endpoint.model!r}: {reason}")
        return QuestionNotTakenError(reason)

    def _message(self, error: openai.APIStatusError) -> str:
        """What the endpoint said, on one line, and without a key that it may have repeated."""
        body = error.body if isinstance(error.body, dict) else {}
        return one_line(self.endpoint.redact(str(body.get("message") or error.message)))
