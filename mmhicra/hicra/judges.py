r"""A judge of failures behind any OpenAI-compatible endpoint: the multiple-choice protocol of the paper's appendix E.1.

The judge sees the problem, the reference answer and the student's solution, compares, and ends with one letter in
`\boxed{}`. The wording is ours. So is the mapping of letters to kinds (`KIND_OF_LETTER`), which the paper leaves open.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhicra.hicra.errors import ErrorKind, Failure, Judgement, generated_problem, is_generated
from mmhicra.records import ProblemImage
from mmhicra.refusals import DataRefusal, Refusal, RunFolderRefusal
from mmhicra.rewards.answers import final_text, last_box

if TYPE_CHECKING:
    import openai

KIND_OF_LETTER: dict[str, ErrorKind] = {"A": "execution", "B": "execution", "C": "planning", "D": "discarded"}
"""Ours: the paper collapses its letters to "Planning & Strategy" and "Others" and does not say which goes where."""

QUESTION = r"""A student's solution of the problem below was marked as wrong. Your task is to find the main reason.

<problem>
{question}
</problem>
{images}
<reference_answer>
{gold}
</reference_answer>

<student_solution>
{response}
</student_solution>
{cut}
Work out how the problem leads to the reference answer, follow the student's solution beside it, and find where the \
two first part. Then choose the single reason that weighs most:

A. Not a real attempt: the text is unrelated to the problem, shows no basic grasp of it, or is no valid solution.
B. Carrying out: the approach could have led to the answer, but a concrete step failed, such as reading off a value, \
rewriting, calculating, algebra, substituting, solving, or following the own plan through.
C. Plan and strategy: a concept was misunderstood, the approach was unsuitable, a strategic move was wrong, or the \
student did not question a result that called for it.
D. Acceptable: the student's answer is right after all.

Explain your choice in a few sentences. End with the letter alone in a box, written as \boxed{{letter}}."""

REMINDER = (
    r"Your choice could not be read. Give it again: one of the letters A, B, C, D alone, written as \boxed{letter}."
)

_LETTER = re.compile(r"(?:\\text\w*\{)?\(?([A-D])\)?\.?\}?")

GIVE_UP_AFTER = 3
"""Questions that an endpoint may turn away before it has taken one; then the mistake is not in the questions."""

FindImages = Callable[[Failure], Sequence[ProblemImage] | None]
"""The images of a failure's problem; None if they cannot be found."""


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


class EndpointJudge:
    """Asks a model behind an endpoint about each failure; safe to call from several threads."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, find_images: FindImages | None = None) -> None:
        """Connect; nothing is sent yet.

        Args:
            endpoint: whom to ask.
            cache: replies of earlier runs, and where to keep those of this one.
            find_images: finds the images to send along; None sends text alone.

        Raises:
            Refusal: the `openai` package is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise Refusal("a judge behind an endpoint needs the openai package: install mmhicra[judge]") from error
        self.endpoint = endpoint
        self.name = endpoint.model
        self.concurrency = endpoint.concurrency
        self.usage = Usage()
        self._cache = cache
        self._find_images = find_images
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=endpoint.url,
            api_key=os.environ.get(endpoint.api_key_env) or "none",
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
        )

    def judge(self, failure: Failure) -> Judgement:
        """Ask about one failure, and once more if the reply has no letter; then it is `unparsed`.

        A question that the endpoint does not take (HTTP 400, 413, 422: too long, filtered) is `unparsed` too, with the
        endpoint's reason.

        Raises:
            Refusal: the endpoint cannot be reached or turns all questions away, or an image cannot be read.
        """
        messages = [{"role": "user", "content": self._question(failure)}]
        try:
            text = self._ask(messages)
            if read_letter(text) is None:
                again = [{"role": "assistant", "content": text}, {"role": "user", "content": REMINDER}]
                text = self._ask([*messages, *again])
        except self._errors.APIStatusError as error:
            return self._not_taken(_message(error))
        letter = read_letter(text)
        return Judgement("unparsed" if letter is None else KIND_OF_LETTER[letter], text, letter)

    def _not_taken(self, reason: str) -> Judgement:
        with self._lock:
            self.usage.not_taken += 1
        if self.usage.not_taken >= GIVE_UP_AFTER and not len(self._cache):
            raise Refusal(f"{self.endpoint.url} takes no question for {self.endpoint.model!r}: {reason}")
        return Judgement("unparsed", f"the endpoint did not take the question: {reason}")

    def _question(self, failure: Failure) -> str | list[dict[str, Any]]:
        if not failure.images or self._find_images is None:
            return write_question(failure, shown=False)
        images = self._find_images(failure)
        if images is None:
            with self._lock:
                self.usage.without_images += 1
            return write_question(failure, shown=False)
        parts = [{"type": "image_url", "image_url": {"url": _data_url(image, failure)}} for image in images]
        return [{"type": "text", "text": write_question(failure, shown=True)}, *parts]

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        """The reply to a conversation, from the cache if it was asked before."""
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
            openai.APIStatusError: this question was not taken; another one may be.
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
                raise
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


def write_question(failure: Failure, shown: bool) -> str:
    """The question about a failure; `shown` says whether its images go along."""
    images = ""
    if failure.images:
        images = "The images of the problem follow.\n" if shown else "The images of the problem cannot be shown.\n"
    cut = "The solution was cut off here: it had reached the limit of its length.\n" if failure.truncated else ""
    return QUESTION.format(
        question=failure.question, images=images, gold=failure.gold, response=failure.response, cut=cut
    )


def read_letter(reply: str) -> str | None:
    r"""The letter in the last box of a reply, outside any thinking: `\boxed{C}`, `\boxed{\text{C}}`, `\boxed{(C)}`."""
    box = last_box(final_text(reply) or "")
    match = _LETTER.fullmatch(box) if box else None
    return match[1] if match else None


def image_finder(folder: Path) -> FindImages:
    """Find images by drawing generated problems again, and others as files; relative paths are relative to `folder`."""

    def find(failure: Failure) -> Sequence[ProblemImage] | None:
        if is_generated(failure):
            return generated_problem(failure).images
        paths = [folder / reference for reference in failure.images]
        return [ProblemImage(path, str(path)) for path in paths] if all(path.is_file() for path in paths) else None

    return find


def _data_url(image: ProblemImage, failure: Failure) -> str:
    buffer = io.BytesIO()
    try:
        image.open().save(buffer, "PNG")
    except OSError as error:
        raise DataRefusal(f"{failure}: image {image.reference} cannot be read ({error}); mend the file") from error
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _message(error: openai.APIStatusError) -> str:
    """What the endpoint said, on one line."""
    body = error.body if isinstance(error.body, dict) else {}
    return " ".join(str(body.get("message") or error.message).split())
