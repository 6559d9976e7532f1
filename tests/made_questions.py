"""Made rows of the benchmarks' own schemas, over real images where there are some, else over drawn ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from real_data import REAL_DATA


def image_files(folder: Path, count: int) -> list[Path]:
    """Real images of MathVision problems, or as many drawn ones if there are none on this machine."""
    real = sorted((REAL_DATA / "images_sample" / "images").rglob("*.jpg"))[:count]
    return real or [_draw(folder / "images" / f"{number}.png", number) for number in range(count)]


def write_questions(folder: Path, count: int) -> dict[str, Path]:
    """`count` questions for each of the three benchmarks; returns their files by benchmark."""
    images = [str(path) for path in image_files(folder, count)]
    rows = {
        "mathvista": [mathvista_row(number, images[number]) for number in range(count)],
        "mathverse": [mathverse_row(number, images[number]) for number in range(count)],
        "mathvision": [mathvision_row(number, images[number]) for number in range(count)],
    }
    files = {name: folder / name / "questions.jsonl" for name in rows}
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
    return files


def mathvista_row(number: int, image: str) -> dict[str, Any]:
    choice = number % 2 == 0
    return {
        "pid": str(number), "question": f"How many shapes are there ({number})?", "image": image,
        "choices": ["3", "5"] if choice else None, "unit": None, "precision": None,
        "answer": "5" if choice else "4",
        "question_type": "multi_choice" if choice else "free_form", "answer_type": "text" if choice else "integer",
        "metadata": {"task": "visual question answering", "skills": ["arithmetic reasoning"], "language": "english"},
    }  # fmt: skip


def mathverse_row(number: int, image: str) -> dict[str, Any]:
    version = ("Text Lite", "Vision Only")[number % 2]
    question = "Find the length.\nChoices:\nA:3\nB:5" if version == "Text Lite" else ""
    return {
        "sample_index": str(number), "problem_index": str(number // 2), "problem_version": version,
        "question": question, "question_for_eval": "Find the length.\nChoices:\nA:3\nB:5", "image": image,
        "answer": "B", "question_type": "multi-choice",
        "metadata": {"subject": "Plane Geometry", "subfield": "Length"},
        "query_wo": f"Please directly answer.\nQuestion: {question}",
        "query_cot": f"Please first conduct reasoning.\nQuestion: {question}",
    }  # fmt: skip


def mathvision_row(number: int, image: str) -> dict[str, Any]:
    return {
        "id": str(number), "question": f"What number ({number}) is hidden?\n<image1>", "options": [],
        "answer": str(number), "level": 1 + number % 5, "subject": ("algebra", "logic")[number % 2], "image": image,
    }  # fmt: skip


def _draw(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (84, 84), "white")
    ImageDraw.Draw(picture).rectangle((10, 10, 20 + 3 * number, 60), fill="red")
    picture.save(path)
    return path
