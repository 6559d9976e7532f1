r"""The official prompts by name, and the suite's own: think in `<think>`, answer in `\boxed{}`."""

from __future__ import annotations

from typing import get_args

from mmhicra.core.errors import ConfigError
from mmhicra.core.names import BenchmarkName
from mmhicra.evaluate.scoring.records import Item
from mmhicra.rewards.options import LETTERS

BOXED = (
    "First reason step by step in <think> </think>, then give the final answer in \\boxed{}. "
    "If there are options, put only the letter of the right one in the box."
)
"""The suite's own instruction, after the question."""

_IN_THE_IMAGE = "Please answer the question shown in the image."
"""The prompt of MathVerse's Vision Only, whose question in words is for the judge alone."""

_MATHVISION_COT = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\n'
)
_EMMA = {
    True: 'Answer with the option\'s letter from the given choices and put the letter in one "\\boxed{}". ',
    False: 'Answer the question using a single word or phrase and put the answer in one "\\boxed{}". ',
}
_EMMA_STRATEGY = {
    "cot": "Please solve the problem step by step.",
    "direct": "Please ensure that your output only contains the final answer without any additional content "
    "(such as intermediate reasoning steps).",
}
_TEXT_COT = "Please reason step by step, and put your final answer within \\boxed{}."
"""The instruction that maths models are usually evaluated with, and with them most of the text sets."""
_TEXT_SETS = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
_HINTS = {
    "text": "provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], "
    "at the end.",
    "float1": "requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, "
    "1.4, at the end.",
    "float2": "requiring a floating-point number with two decimal places and provide the final value, e.g., 1.23, "
    "1.34, 1.45, at the end.",
}


def write_prompt(benchmark: str, item: Item, style: str) -> str:
    """The text put to a model beside the image.

    Args:
        benchmark: its name.
        item: the question.
        style: one of the card's `prompts`.

    Raises:
        ConfigError: the benchmark has no prompt of that name.
    """
    match benchmark, style:
        case "mathverse", "boxed" if "asked" in item.facts:
            return f"{item.facts['asked'] or _IN_THE_IMAGE}\n{BOXED}"
        case _, "boxed":
            return f"{_with_options(item)}\n{BOXED}"
        case "mathvista", "official":
            return str(item.facts.get("query") or mathvista_query(item))
        case "mathverse", "direct" | "cot":
            written = item.facts.get("query_wo" if style == "direct" else "query_cot")
            if written:
                return str(written)
        case "mathvision", "cot":
            return f"{_MATHVISION_COT}{_with_options(item)}"
        case "mathvision", "direct":
            return f"{_with_options(item)}\nAnswer the question using a single word or phrase."
        case "emma", "cot" | "direct":
            options = [f"{letter}: {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
            lines = [item.question, *options, _EMMA[bool(item.choices)] + _EMMA_STRATEGY[style]]
            return "\n".join(lines)
        case name, "cot" if name in _TEXT_SETS:
            return f"{item.question}\n{_TEXT_COT}"
        case name, "cot" if name not in get_args(BenchmarkName):
            return f"{_with_options(item)}\n{_TEXT_COT}"
    raise ConfigError(f"{benchmark} has no prompt {style!r} for question {item.id}: its card lists those it has")


def mathvista_query(item: Item) -> str:
    """MathVista's `query`: hint, question with its unit, options."""
    kind = str(item.facts.get("answer_type"))
    if kind == "float":
        kind += str(int(item.facts.get("precision") or 1))
    verb = "Please answer the question and" if item.kind == "choice" else "Please answer the question"
    unit = f" (Unit: {item.facts['unit']})" if item.facts.get("unit") else ""
    lines = [f"Hint: {verb} {_HINTS['text' if item.kind == 'choice' else kind]}", f"Question: {item.question}{unit}"]
    if item.choices:
        lines += ["Choices:", *_lettered(item)]
    return "\n".join(lines).strip()


def _with_options(item: Item) -> str:
    """Options that are only the letters are drawn in the image and are left out; MathVerse's stand in the question."""
    drawn = item.choices == tuple(LETTERS[: len(item.choices)])
    if not item.choices or drawn or all(choice in item.question for choice in item.choices):
        return item.question
    return "\n".join([item.question, *_lettered(item)])


def _lettered(item: Item) -> list[str]:
    return [f"({letter}) {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
