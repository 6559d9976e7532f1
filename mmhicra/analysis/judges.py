r"""A judge of failures behind any OpenAI-compatible endpoint: the multiple-choice protocol of the paper's appendix E.1.

The judge sees the problem, the reference answer and the student's solution, compares, and ends with one letter in
`\boxed{}`. The wording is ours. So is the mapping of letters to kinds (`KIND_OF_LETTER`), which the paper leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmhicra.analysis.errors import ErrorKind, Failure, Judgement, generated_problem, is_generated
from mmhicra.core.endpoint import ChatEndpoint, Endpoint, QuestionNotTakenError, ReplyCache, Usage, image_part
from mmhicra.core.errors import DataError
from mmhicra.core.records import ProblemImage
from mmhicra.rewards.answers import final_text, last_box

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

FindImages = Callable[[Failure], Sequence[ProblemImage] | None]
"""The images of a failure's problem; None if they cannot be found."""


class EndpointJudge:
    """Asks a model behind an endpoint about each failure; safe to call from several threads."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, find_images: FindImages | None = None) -> None:
        """Connect; nothing is sent yet.

        Args:
            endpoint: whom to ask.
            cache: replies of earlier runs, and where to keep those of this one.
            find_images: finds the images to send along; None sends text alone.

        Raises:
            UserError: the `openai` package is not installed.
        """
        self.chat = ChatEndpoint(endpoint, cache)
        self.endpoint = endpoint
        self.name = endpoint.model
        self.concurrency = endpoint.concurrency
        self._find_images = find_images

    @property
    def usage(self) -> Usage:
        """What the judging has cost so far."""
        return self.chat.usage

    def judge(self, failure: Failure) -> Judgement:
        """Ask about one failure, and once more if the reply has no letter; then it is `unparsed`.

        A question that the endpoint does not take (HTTP 400, 413, 422: too long, filtered) is `unparsed` too, with the
        endpoint's reason.

        Raises:
            UserError: the endpoint cannot be reached or turns all questions away, or an image cannot be read.
        """
        messages = [{"role": "user", "content": self._question(failure)}]
        try:
            text = self.chat.ask(messages)
            if read_letter(text) is None:
                again = [{"role": "assistant", "content": text}, {"role": "user", "content": REMINDER}]
                text = self.chat.ask([*messages, *again])
        except QuestionNotTakenError as error:
            return Judgement("unparsed", f"the endpoint did not take the question: {error}")
        letter = read_letter(text)
        return Judgement("unparsed" if letter is None else KIND_OF_LETTER[letter], text, letter)

    def _question(self, failure: Failure) -> str | list[dict[str, Any]]:
        if not failure.images or self._find_images is None:
            return write_question(failure, shown=False)
        images = self._find_images(failure)
        if images is None:
            self.chat.count_without_images()
            return write_question(failure, shown=False)
        parts = [_part(image, failure) for image in images]
        return [{"type": "text", "text": write_question(failure, shown=True)}, *parts]


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


def _part(image: ProblemImage, failure: Failure) -> dict[str, Any]:
    try:
        return image_part(image)
    except OSError as error:
        raise DataError(f"{failure}: image {image.reference} cannot be read ({error}); mend the file") from error
