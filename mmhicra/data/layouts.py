"""Named layouts: which columns of a data set hold what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps things.

    Attributes:
        question: candidate columns, the first that is there counts; so for the other roles. A dot reaches
            into a column that holds an object.
        marks: columns that tell this layout from others.
        facts: columns kept in `Problem.facts`.
        unit: column whose text is added to the question as `(Unit: years)`.
        chat: `question` holds messages, and the last assistant turn the answer if no column does. `auto` knows it by
            what the column holds, a list of turns.
        merged: several numbered placeholders beside one image are names drawn in that image, and stay.
        answer_is_text: the gold answer of a multiple-choice problem is a choice's text, not its letter.
    """

    question: tuple[str, ...] = ()
    answer: tuple[str, ...] = ("answer",)
    images: tuple[str, ...] = ("image", "images")
    choices: tuple[str, ...] = ("choices", "options")
    id: tuple[str, ...] = ("id",)
    task: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    unit: str | None = None
    chat: bool = False
    merged: bool = False
    answer_is_text: bool = False


LAYOUTS: dict[str, Layout] = {
    "messages": Layout(
        question=("messages", "prompt", "conversations"),
        answer=("answer", "solution", "reward_model.ground_truth", "ground_truth"),
        images=("images", "image"),
        chat=True,
    ),
    "intergps": Layout(
        question=("annotat_text", "problem_text"),
        task=("problem_type_goal",),
        marks=("problem_text", "choices"),
        facts=("precise_value", "unit"),
    ),
    "mathvista": Layout(
        question=("question", "query"),
        images=("decoded_image", "image"),
        id=("pid",),
        task=("metadata.task",),
        marks=("question_type", "answer_type"),
        facts=("answer_type", "precision", "unit"),
        unit="unit",
        answer_is_text=True,
    ),
    "mathvision": Layout(
        question=("question",),
        images=("decoded_image", "image"),
        choices=("options", "choices"),
        task=("subject",),
        marks=("options",),
        facts=("level",),
        merged=True,
    ),
    "virl39k": Layout(
        question=("question",),
        id=("qid",),
        task=("category",),
        marks=("qid",),
        facts=("source", "PassRate_32BTrained"),
    ),
    "geometry3k": Layout(
        question=("problem",), answer=("answer", "solution"), images=("images", "image"), marks=("problem",)
    ),
    "mmk12": Layout(question=("question",), answer=("answer", "solution"), task=("subject",), marks=("question",)),
}
"""In the order `auto` tries them: the more particular first."""
ANY_LAYOUT = {**LAYOUTS, "columns": Layout(question=("prompt",), answer=("answer", "solution", "ground_truth"))}
"""What `auto` tries: last of all TRL's texts, or that the configuration names the question's column."""
