r"""Small made files in the very form of the data sets that are published: layouts, output files, labels, score files.

The questions and responses are ours; the labels follow from the benchmarks' official rules and are written by hand. The
totals in the score files are counted here, plainly.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

VISION = ("GPT4-CoT_Text_Only", "Gemini-Pro-CoT", "InternLM-XComposer2-VL-CoT", "LLaVA-v1.5-13B", "Qwen-VL-Plus")
VISTA = {
    "bard": ("bard/output_bard", "bard/scores_bard"),
    "chatgpt": ("chatgpt/output_chatgpt", "chatgpt/scores_chatgpt"),
    "minigpt4": ("minigpt4/output_minigpt4_llama2", "minigpt4/scores_minigpt4_llama2"),
    "idefics": ("idefics/output_idefics_9b_instruct", "idefics/scores_idefics_9b_instruct"),
}
KEYS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")


@dataclass(frozen=True)
class DataFolder:
    """A folder of data sets: the made ones, or the real ones."""

    path: Path
    real: bool

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def write_data(folder: Path) -> Path:
    """All made data sets, in the places of the real ones."""
    write_geometry3k(folder / "geometry3k")
    write_mathvision(folder / "mathvision")
    write_mathvista(folder / "mathvista")
    write_mathverse(folder / "mathverse")
    write_images_sample(folder / "images_sample")
    write_r1v(folder / "rl_outputs_r1v")
    return folder


def write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(tree, file)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


# Geometry3K (the layout of Inter-GPS)

GOALS = ("Length", "Angle", "Area", "Ratio")


def write_geometry3k(folder: Path, train: int = 24, val: int = 20) -> None:
    """Diagrams of lines on a transparent ground (RGBA, as all of Geometry3K), from 60 x 20 to 700 x 500 pixels."""
    rng = np.random.default_rng(3)
    for split, count in (("train", train), ("val", val)):
        rows = []
        for number in range(count):
            width, height = int(rng.integers(60, 700)), int(rng.integers(20, 500))
            name = f"images/{split}/{5 * number}.png"
            draw_diagram(folder / name, width, height, rng)
            values = [float(number + 2), number + 3.5, number + 7.0, float(2 * number + 20)]
            rows.append(geometry3k_row(5 * number, split, name, (width, height), values))
        write_lines(folder / f"{split}.jsonl", rows)


def geometry3k_row(number: int, split: str, image: str, size: tuple[int, int], values: list[float]) -> dict[str, Any]:
    choices = [f"{value:g}" for value in values]
    return {
        "problem_text": f"\\triangle R S T \\cong \\triangle X Y Z. Find y, {split} {number}.", "choices": choices,
        "answer": "ABCD"[number // 5 % 4], "detailed_solution": " ", "problem_type_graph": ["Triangle"],
        "problem_type_goal": [GOALS[number // 5 % len(GOALS)]], "source": "made.pdf", "comment": "", "id": number,
        "annot_id": f"made_{number}", "is_standard": False, "compact_choices": choices, "precise_value": values,
        "rough_value": values, "compact_text": f"Find y, {number}.", "annotat_text": f"Find $y$, {number}.",
        "unit": "", "img_width": size[0], "img_height": size[1], "data_type": split, "image": image, "split": split,
        "logic_form": {"text_logic_form": ["Find(y)"], "point_positions": {"R": [2.0, 56.0]}},
    }  # fmt: skip


def draw_diagram(path: Path, width: int, height: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", (width, height), (255, 255, 255, 0))
    corners = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(3)]
    ImageDraw.Draw(picture).polygon(corners, outline=(0, 0, 0, 255))
    picture.save(path)


# MathVision: question, options, gold, level, subject; a response, its official extraction and official label

FIVE = ["12", "15", "18", "21", "24"]
MATHVISION: list[tuple[str, list[str], str, int, str, str, str, bool]] = [
    ("What comes next?\n<image1>", [], "60", 2, "arithmetic", "90 - 30 = 60\n\n\\boxed{60}", "60", True),
    ("How many legs?\n<image1>", [], "8", 1, "counting", "I count them.\nThe answer is 7.", "7", False),
    ("Which bike?\n<image1>", list("ABCDE"), "A", 2, "arithmetic", "Bike A costs most.\n\\boxed{A}", "a", True),
    ("How long?\n<image1>", FIVE, "C", 3, "metric geometry - length", "So the answer is (C).", "c", True),
    ("How long, then?\n<image1>", FIVE, "B", 3, "metric geometry - length", "So it is \\boxed{15}.", "15", True),
    ("How wide?\n<image1>", FIVE, "D", 4, "metric geometry - length", "It is wide.\n\\boxed{\\textbf{(D)}}",
     "bfd", False),
    ("Find AB.\n<image1>", [], "2\\sqrt{3}", 4, "algebra", "By Pythagoras \\boxed{\\sqrt{12}}", "\\sqrt{12}", True),
    ("Find AC.\n<image1>", [], "\\sqrt{5}", 4, "algebra", "By Pythagoras \\boxed{\\sqrt{5}}", "\\sqrt{5}", True),
    ("The area?\n<image1>", [], "4\\pi", 5, "metric geometry - area", "It is \\boxed{4\\pi}.", "4\\pi", True),
    ("The share?\n<image1>", [], "\\frac{1}{2}", 5, "algebra", "Half of it: \\boxed{0.5}", "\\frac{1}{2}", True),
    ("The rest?\n<image1>", [], "0.25", 5, "algebra", "A quarter: \\boxed{\\frac{1}{4}}", "\\frac{1}{4}", True),
    ("How many?\n<image1>", [], "961", 1, "counting", "I cannot see it", "icannotseeit", False),
    ("Which?\n<image1>", list("ABCDE"), "E", 1, "logic", "(D)\nAs square C has three.", "d", False),
    ("How often?\n<image1>", [], "3", 2, "logic", "Once, twice, thrice. The answer is 3.", "3", True),
]  # fmt: skip
DEFECTS = [
    {"id": "528", "question": "", "options": list("ABCDE"), "answer": "A"},
    {"id": "2830", "question": "Slope?\n<image1>", "options": [], "answer": "\x0crac{16}{7}"},
]
"""Question 528 of the real file is empty, 2830 has lost a backslash."""


def write_mathvision(folder: Path) -> None:
    rows = [mathvision_row(number, *cells[:5]) for number, cells in enumerate(MATHVISION, 1)]
    extra = {"solution": None, "level": 1, "subject": "algebra", "image": "images/x.jpg"}
    write_lines(folder / "test.jsonl.gz", [*rows, *(row | extra for row in DEFECTS)])
    write_lines(folder / "testmini.jsonl.gz", rows[:6])
    outputs = [
        {"id": row["id"], "model": "made", "response": said, "model_answer": read, "correct": right}
        for row, (*_, said, read, right) in zip(rows, MATHVISION, strict=True)
    ]
    defects = [{"id": row["id"], "model": "made", "response": "", "model_answer": "", "correct": False}
               for row in DEFECTS]  # fmt: skip
    for name in VISION:
        write_lines(folder / "outputs" / f"{name}.jsonl.gz", [*outputs, *defects])
        write_json(folder / "outputs" / f"{name}_result.json.gz", mathvision_result())


def mathvision_row(number: int, question: str, options: list[str], answer: str, level: int, subject: str) -> dict:
    return {"id": str(number), "question": question, "options": options, "answer": answer, "solution": None,
            "level": level, "subject": subject, "image": f"images/{number}.jpg"}  # fmt: skip


def mathvision_result() -> dict[str, str]:
    right, all_ = Counter[str](), Counter[str]()
    labels = [(level, subject, good) for _, _, _, level, subject, _, _, good in MATHVISION]
    for level, subject, good in [*labels, *[(1, "algebra", False)] * len(DEFECTS)]:
        keys = ["-all", f"-level{level}", subject, f"{subject}_level{level}", f"-level{level}_{subject}"]
        all_.update(keys)
        right.update(keys if good else [])
    return {key: f"{right[key]}/{all_[key]}={round(100 * right[key] / all_[key], 2)}%" for key in sorted(all_)}


def write_images_sample(folder: Path) -> None:
    """MathVision questions with their images, named in the column `image_path`."""
    rows = []
    for number, (question, options, answer, level, subject, *_) in enumerate(MATHVISION):
        name = f"images/mathvision_testmini/{number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((80 + number, 90), 50).convert("RGB").save(folder / name)
        row = mathvision_row(number, question, options, answer, level, subject)
        rows.append(row | {"image_path": name, "sample_source": "mathvision_testmini"})
    write_lines(folder / "questions.jsonl", rows)


# MathVista: choices, unit, precision, gold, answer type; a response, its extraction, prediction and label; the query

CHOOSE = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
REQUIRING = "Hint: Please answer the question requiring "
COUNT = f"{REQUIRING}an integer answer and provide the final value, e.g., 1, 2, 3, at the end."
FLOAT = f"{REQUIRING}a floating-point number with "
ONE_PLACE = f"{FLOAT}one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end."
TWO_PLACES = f"{FLOAT}two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45, at the end."
LIST = (
    f"{REQUIRING}a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end."
)
ANGLES = ["40°", "60°", "145°"]
MATHVISTA: list[tuple[list[str] | None, str | None, int | None, str, str, str, str, str | None, bool, str]] = [
    (ANGLES, None, None, "145°", "text", "The correct answer is **(C) 145°**.", "C", "145°", True, CHOOSE),
    (ANGLES, None, None, "60°", "text", "The answer is (A) 40°.", "A", "40°", False, CHOOSE),
    (["Yes", "No"], None, None, "No", "text", "The answer is (B) No.", "B", "No", True, CHOOSE),
    (None, "g", None, "1000", "integer", "The total volume is 250 g.", "250", "250", False, COUNT),
    (None, None, None, "7", "integer", "The answer is 7.", "7", "7", True, COUNT),
    (None, None, None, "5", "integer", "I count the squares, again and again.", "5.0", None, False, COUNT),
    (None, None, 1, "1.2", "float", "The answer is 1.23.", "1.23", "1.2", True, ONE_PLACE),
    (None, None, 1, "0.1", "float", "The answer is 0.4.", "0.4", "0.4", False, ONE_PLACE),
    (None, "years", 2, "0.25", "float", "The answer is 0.25.", "0.25", "0.25", True, TWO_PLACES),
    (None, None, None, "[1, 2]", "list", "The answer is [1, 2].", "[1, 2]", "[1, 2]", True, LIST),
    (["9", "12", "18", "18"], None, None, "18", "text", "The answer is (C) 18.", "C", "18", True, CHOOSE),
]  # fmt: skip
CURRENT_GAIN = 1
"""Labels that the current integer rule turns from wrong to right: `5.0` for 5."""


def mathvista_rows() -> dict[str, dict[str, Any]]:
    rows = {}
    for number, (choices, unit, precision, answer, kind, *_) in enumerate(MATHVISTA, 1):
        rows[str(number)] = {
            "question": f"Question {number}?", "image": f"images/{number}.jpg", "choices": choices, "unit": unit,
            "precision": precision, "answer": answer, "question_type": "multi_choice" if choices else "free_form",
            "answer_type": kind, "pid": str(number),
            "metadata": {
                "split": "testmini", "language": ("english", "chinese")[number % 2], "img_width": 84, "img_height": 84,
                "source": ("TQA", "GeoQA+")[number % 3 == 0], "category": "general-vqa", "context": "function plot",
                "task": ("math word problem", "figure question answering")[number % 2], "grade": "high school",
                "skills": ["arithmetic reasoning", "geometry reasoning"][: 1 + number % 2],
            },
        }  # fmt: skip
    return rows


def mathvista_queries() -> dict[str, str]:
    queries = {}
    for number, (choices, unit, *_, hint) in enumerate(MATHVISTA, 1):
        lines = [hint, f"Question: Question {number}?" + (f" (Unit: {unit})" if unit else "")]
        lettered = [f"({letter}) {choice}" for letter, choice in zip("ABCD", choices or [], strict=False)]
        queries[str(number)] = "\n".join([*lines, "Choices:", *lettered] if choices else lines)
    return queries


def write_mathvista(folder: Path) -> None:
    rows, queries = mathvista_rows(), mathvista_queries()
    write_json(folder / "testmini.json.gz", rows)
    write_json(folder / "query.json.gz", queries)
    outputs = {}
    for (pid, row), (*_, said, read, prediction, right, _) in zip(rows.items(), MATHVISTA, strict=True):
        outputs[pid] = row | {"query": queries[pid], "response": said, "extraction": read, "error": ""}
        outputs[pid] |= {"prediction": prediction, "true_false": right}
    for output, scores in VISTA.values():
        write_json(folder / "results" / f"{output}.json.gz", outputs)
        write_json(folder / "results" / f"{scores}.json.gz", mathvista_scores(outputs))


def mathvista_scores(outputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    labels = [row["true_false"] for row in outputs.values()]
    scores: dict[str, Any] = {"average": {"accuracy": "", "correct": sum(labels), "total": len(labels)}}
    for key in KEYS:
        right, all_ = Counter[str](), Counter[str]()
        for row in outputs.values():
            value = row["metadata"].get(key, row.get(key))
            values = value if isinstance(value, list) else [value]
            all_.update(values)
            right.update(values if row["true_false"] else [])
        scores[key] = {value: {"accuracy": "", "correct": right[value], "total": all_[value]} for value in all_}
    return scores


# MathVerse: question, gold, options

STRAW = "A can has a height of 13 cm and a radius of 3 cm. Find L, rounded down to the nearest cm."
MATHVERSE: list[tuple[str, str, dict[str, str]]] = [
    ("Angle A = 80.0, then the size of angle CED is ()", "D", {"A": "40°", "B": "60°", "C": "120°", "D": "140°"}),
    ("Then BC is equal to ()", "B", {"A": "2", "B": "2√{3}", "C": "√{3}", "D": "3√{2}"}),
    ("Find the domain.", "(-4, 0)", {}),
    ("Find the equation.", "y = 2x + 1", {}),
    ("How far is it?", "12.5", {}),
    ("How high is it?", "17", {}),
    ("What share is red?", "\\frac{3}{8}", {}),
    (STRAW, "14", {}),
]
STRAW_ANSWERS = {
    "Text Dominant": "L = \\sqrt{13^2 + 6^2}, about 14.3, so the answer is 14.",
    "Text Lite": "The answer is \\boxed{14} cm.",
    "Vision Intensive": "It is \\sqrt{205}. Therefore, the length is 14 cm.",
    "Vision Dominant": "Rounded down, L is 14 cm.",
    "Vision Only": "L is 13 cm.",
}


def mathverse_row(number: int, version: str, question: str, answer: str, options: dict[str, str]) -> dict[str, Any]:
    asked = "\n".join([question, "Choices:", *(f"{k}:{v}" for k, v in options.items())]) if options else question
    return {
        "sample_index": str(number), "problem_index": str(number), "problem_version": version, "question": asked,
        "image": "", "answer": answer, "question_type": "multi-choice" if options else "free-form",
        "metadata": {"split": "testmini", "source": "made", "subject": "Plane Geometry", "subfield": "Length"},
        "query_wo": f"Please directly answer the question.\nQuestion: {asked}",
        "query_cot": f"Please first conduct reasoning.\nQuestion: {asked}",
    }  # fmt: skip


def write_mathverse(folder: Path) -> None:
    rows = [mathverse_row(number, "Text Only", *cells) for number, cells in enumerate(MATHVERSE, 1)]
    write_json(folder / "testmini_text_only.json.gz", rows)
    with_options = [
        row | {"question_for_eval": row["question"], "id": f"MathVerse-testmini-{n}", "options": cells[2]}
        for n, (row, cells) in enumerate(zip(rows, MATHVERSE, strict=True))
    ]
    write_json(folder / "testmini_text_only_with_options.json.gz", with_options)
    straw = [
        mathverse_row(3421 + n, version, STRAW, "14", {}) | {"model_answer": said}
        for n, (version, said) in enumerate(STRAW_ANSWERS.items())
    ]
    write_json(folder / "output_template_testmini.json.gz", straw)
    alone = mathverse_row(685, "Text Only", STRAW, "14", {}) | {"model_answer": STRAW_ANSWERS["Text Dominant"]}
    write_json(folder / "output_template_testmini_text_only.json.gz", [alone])


# Outputs of R1-V: gold, what was written, whether it is right

R1V = [
    ("140°", "<think> Since DE is parallel to BC, angle CED is 100°. </think>\n<answer>100</answer>", False),
    ("140°", "<think> Let me check that again. </think>\n<answer>140°</answer>", True),
    ("10√{2}", "<think> By Pythagoras. </think>\n<answer>10\\sqrt{2}</answer>", True),
    ("\\frac{3}{5}", "<think> The sine is 0.6. </think>\n<answer>\\( \\frac{3}{5} \\)</answer>", True),
    ("8", "<think> First, we note that it is 9, wait, 8 does not fit. </think>\n<answer>9</answer>", False),
]


def write_r1v(folder: Path) -> None:
    results = [
        {"question": {"image_path": "x.png", "question": "?", "ground_truth": gold}, "ground_truth": gold,
         "model_output": said, "extracted_answer": "", "is_correct": right}
        for gold, said, right in R1V
    ]  # fmt: skip
    write_json(folder / "geoqa_test_qwen2vl_7b_instruct_legacy.json.gz", {"accuracy": 60.0, "results": results})
