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
        absent: columns that a data set of this layout does not have.
        facts: columns kept in `Problem.facts`.
        unit: column whose text is added to the question as `(Unit: years)`.
        context: column whose text stands in front of the question: a passage, a table, what ScienceQA calls a hint.
        system: column that holds a system turn.
        history: column that holds earlier turns, which must be empty.
        chat: `question` holds messages, and the last assistant turn the answer if no column does. `auto` knows it by
            what the column holds, a list of turns.
        plain: of a chat layout, that plain texts in place of the messages are recognised by `auto` too.
        merged: several numbered placeholders beside one image are names drawn in that image, and stay.
        answer_is_text: the gold answer of a multiple-choice problem is a choice's text, not its letter.
        answer_is_index: a gold answer that is a whole number counts the choices from 0.
    """

    question: tuple[str, ...] = ()
    answer: tuple[str, ...] = ("answer",)
    images: tuple[str, ...] = ("image", "images")
    choices: tuple[str, ...] = ("choices", "options")
    id: tuple[str, ...] = ("id",)
    task: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    unit: str | None = None
    context: str | None = None
    system: str | None = None
    history: str | None = None
    chat: bool = False
    plain: bool = False
    merged: bool = False
    answer_is_text: bool = False
    answer_is_index: bool = False


LAYOUTS: dict[str, Layout] = {
    "verl": Layout(
        question=("prompt",),
        answer=("reward_model.ground_truth",),
        images=("images", "image"),
        marks=("prompt", "reward_model"),
        facts=("data_source", "ability", "extra_info"),
        chat=True,
        plain=True,
    ),
    "llava": Layout(
        question=("conversations",),
        answer=("answer", "solution", "ground_truth"),
        marks=("conversations",),
        chat=True,
    ),
    "swift": Layout(
        question=("messages", "query"),
        answer=("solution", "answer", "response"),
        images=("images", "image"),
        marks=("query", "response"),
        system="system",
        history="history",
        chat=True,
        plain=True,
    ),
    "trl": Layout(
        question=("prompt",),
        answer=("solution", "answer", "ground_truth", "completion"),
        marks=("prompt",),
        chat=True,
        plain=True,
    ),
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
    "mmmu": Layout(
        question=("question",),
        images=(),
        choices=("options",),
        task=("subfield",),
        marks=("options", "image_1"),
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
    "scienceqa": Layout(
        question=("question",),
        task=("subject",),
        marks=("choices", "hint"),
        context="hint",
        answer_is_index=True,
    ),
    "virl39k": Layout(
        question=("question",),
        id=("qid",),
        task=("category",),
        marks=("qid",),
        facts=("source", "PassRate_32BTrained"),
    ),
    "r1v": Layout(
        question=("problem",),
        answer=("solution", "answer"),
        marks=("problem", "solution"),
        absent=("answer",),
    ),
    "geometry3k": Layout(
        question=("problem",), answer=("answer", "solution"), images=("images", "image"), marks=("problem",)
    ),
    "mmk12": Layout(question=("question",), answer=("answer", "solution"), task=("subject",), marks=("question",)),
    "imagefolder": Layout(
        question=("question", "problem", "query", "prompt"),
        answer=("answer", "solution", "ground_truth", "label"),
        images=("file_name", "file_names"),
        marks=("file_name",),
        absent=("image", "images"),
    ),
}
"""In the order `auto` tries them: the more particular first."""
ANY_LAYOUT = {**LAYOUTS, "columns": Layout(answer=("answer", "solution", "ground_truth"))}
"""What `auto` tries: last of all, that the configuration names the question's column."""
