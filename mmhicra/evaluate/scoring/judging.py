r"""The second stage: a language model decides what the rules could not, and nothing else.

* `local`: our own question, answered with right or wrong in a box.
* `official`: the benchmark's own prompts from the installed lmms-eval. MathVista's reads the answer out, which the
  rules then judge; the others' judge the whole response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mmhicra.core.endpoint import ChatEndpoint, QuestionNotTakenError
from mmhicra.core.errors import ConfigError
from mmhicra.evaluate.benchmarks.official_prompts import official_prompt
from mmhicra.evaluate.benchmarks.prompts import mathvista_query
from mmhicra.evaluate.scoring.records import Item, Mode, Response, SampleRecord
from mmhicra.evaluate.scoring.samples import vote_of
from mmhicra.rewards.answers import final_text, last_box
from mmhicra.rewards.options import LETTERS

JudgeMode = Literal["local", "official"]

QUESTION = r"""A response to the question below is to be marked. Its final answer could not be read by rules.

<question>
{question}
</question>
{options}
<right_answer>
{gold}
</right_answer>

<response>
{response}
</response>

Find the final answer that the response commits itself to. It is right if it says the same as the right answer, \
whatever its notation or unit; it is wrong if it differs, if the response names several answers, or if it declines to \
answer. Do not solve the question yourself. End with your verdict alone in a box: \boxed{{right}} or \boxed{{wrong}}."""

REMINDER = r"Your verdict could not be read. Give it again: \boxed{right} or \boxed{wrong}, and nothing else."

_LONGEST_RESPONSE = 20_000
"""Characters of a response, from its end, that a judge is shown."""

Score = Callable[[Sequence[tuple[Item, Response]]], list[SampleRecord]]
"""A function that scores by the rules of a mode, taking the stored extraction."""


@dataclass(frozen=True)
class AnswerJudge:
    """Whom to ask and how.

    Attributes:
        chat: the endpoint.
        mode: whose prompts.
        prices: money per million tokens in and out, None if it is not known.
    """

    chat: ChatEndpoint
    mode: JudgeMode = "local"
    prices: tuple[float, float] | None = None

    def decide(
        self,
        benchmark: str,
        pairs: Sequence[tuple[Item, Response]],
        records: Sequence[SampleRecord],
        mode: Mode,
        score: Score,
    ) -> tuple[list[SampleRecord], dict[str, Any]]:
        """Ask about the undecided, and say what that came to; verdicts that cannot be read leave the rules' own.

        Args:
            benchmark: its name.
            pairs: questions and responses.
            records: what the rules said of them.
            mode: of those records.
            score: scores by the rules of that mode.

        Raises:
            UserError: the endpoint cannot be reached, or `official` prompts are not to be had.
        """
        before = replace(self.chat.usage)
        places = [number for number, record in enumerate(records) if is_undecided(record, benchmark, mode)]
        ask = self._extract if self.mode == "official" and benchmark == "mathvista" else self._judge
        if self.mode == "official":
            refuse_unofficial(benchmark)

        def verdict_on(at: int) -> SampleRecord | None:
            item, response = pairs[at]
            return ask(item, response, records[at], score)

        pool = ThreadPoolExecutor(self.chat.endpoint.concurrency)
        try:
            verdicts = list(pool.map(verdict_on, places))
        finally:
            pool.shutdown(cancel_futures=True)
        decided = list(records)
        for at, verdict in zip(places, verdicts, strict=True):
            decided[at] = verdict or records[at]
        changed = sum(new.correct != old.correct for new, old in zip(decided, records, strict=True))
        return decided, self._facts(before, len(places), len(records), changed, verdicts.count(None))

    def _judge(self, item: Item, response: Response, record: SampleRecord, score: Score) -> SampleRecord | None:
        """Right or wrong, from one question and at most one reminder."""
        question = official_question(item, response) if self.mode == "official" else write_question(item, response)
        messages = [{"role": "user", "content": question}]
        read = _read_digit if self.mode == "official" else _read_box
        try:
            reply = self.chat.ask(messages)
            if read(reply) is None and self.mode == "local":
                again = [{"role": "assistant", "content": reply}, {"role": "user", "content": REMINDER}]
                reply = self.chat.ask([*messages, *again])
        except QuestionNotTakenError:
            return None
        verdict = read(reply)
        if verdict is None:
            return None
        return replace(record, correct=verdict, why=f"judged {'right' if verdict else 'wrong'}", judged=True)

    def _extract(self, item: Item, response: Response, record: SampleRecord, score: Score) -> SampleRecord | None:
        """MathVista: the model reads the answer out, the rules judge it."""
        query = item.facts.get("query") or mathvista_query(item)
        shown = f"{query}\n\n{shown_response(response)}"
        prompt = f"{official_prompt('extract').strip()}\n\n{shown}\n\nExtracted answer: "
        try:
            reply = self.chat.ask([{"role": "user", "content": prompt}])
        except QuestionNotTakenError:
            return None
        if not reply.strip():
            return None
        (judged,) = score([(item, replace(response, extraction=reply.strip()))])
        flags = {"empty": record.empty, "truncated": record.truncated, "fallback": record.fallback}
        facts = {"sample": record.sample, "vote": vote_of(item, judged)}
        return replace(judged, method="extracted by the judge", judged=True, **flags, **facts)

    def _facts(self, before: Any, asked: int, of: int, overturned: int, unparsed: int) -> dict[str, Any]:
        """What the result file says of the judge; usage is that of this file alone."""
        usage = self.chat.usage
        spent = {name: getattr(usage, name) - value for name, value in asdict(before).items()}
        facts: dict[str, Any] = {
            "url": self.chat.endpoint.shown,
            "model": self.chat.endpoint.model,
            "mode": self.mode,
            "asked": asked,
            "of": of,
            "share": asked / of if of else 0.0,
            "overturned": overturned,
            "unparsed": unparsed,
            **{name: spent[name] for name in ("requests", "cached", "not_taken", "unreported")},
            **{name: spent[name] for name in ("prompt_tokens", "completion_tokens")},
        }
        if self.prices:
            tokens = replace(before, **{name: spent[name] for name in ("prompt_tokens", "completion_tokens")})
            facts["cost"] = tokens.price(*self.prices)
        return facts


def is_undecided(record: SampleRecord, benchmark: str, mode: Mode) -> bool:
    """Whether the rules guessed, found several answers, or found none where there is something to read.

    MathVerse's official rule without a model is string equality: whatever it does not find equal is undecided.
    """
    if record.empty or (record.extracted is None and record.truncated):
        return False
    if benchmark == "mathverse" and mode == "official":
        return not record.correct
    return record.fallback or record.nearest_choice or record.ambiguous or record.extracted is None


def write_question(item: Item, response: Response) -> str:
    """Our own question about one response."""
    lettered = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
    options = "\n".join(["\n<options>", *lettered, "</options>\n"]) if lettered else ""
    return QUESTION.format(
        question=_sendable(item.question), options=options, gold=item.answer, response=shown_response(response)
    )


def official_question(item: Item, response: Response) -> str:
    """lmms-eval's question: 1 for right, 0 for wrong."""
    return official_prompt("judge").format(
        question=_sendable(item.question),
        answer=item.answer,
        prediction=shown_response(response),
        positive="1",
        negative="0",
    )


def refuse_unofficial(benchmark: str) -> None:
    """Refuse `official` where lmms-eval judges otherwise, and where it is not installed.

    Raises:
        ConfigError: the benchmark is not one that lmms-eval judges with these prompts.
        UserError: lmms-eval is not installed.
    """
    if benchmark not in ("mathvista", "mathverse", "mathvision"):
        raise ConfigError(f"--judge-mode official has no prompts for {benchmark}: use --judge-mode local")
    official_prompt("extract" if benchmark == "mathvista" else "judge")


def shown_response(response: Response) -> str:
    """What a judge is given of a response: without its thinking, its end if it is very long."""
    text = final_text(response.text)
    return _sendable((response.text if text is None else text)[-_LONGEST_RESPONSE:])


def _sendable(text: str) -> str:
    """Lone surrogates cannot be sent."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_box(reply: str) -> bool | None:
    box = (last_box(final_text(reply) or "") or "").strip().lower().removeprefix("\\text{").rstrip("}.")
    return {"right": True, "wrong": False}.get(box)


def _read_digit(reply: str) -> bool | None:
    return {"1": True, "0": False}.get((final_text(reply) or "").strip().strip("*`."))
