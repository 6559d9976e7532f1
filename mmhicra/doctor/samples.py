"""Real samples of the configured data, seen from both sides: the trainer's prompt, and what an engine makes of it.

An engine gets the un-expanded ids and the images as the trainer resized them, and goes on with the model folder's own
processor and the model's own positions. Whoever serves the checkpoint later does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmhicra.core.records import Problem, Prompt
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.doctor.problems import Reader
from mmhicra.vlm.family import StockView
from mmhicra.vlm.loading import LoadedProcessor
from mmhicra.vlm.processing import PromptBuilder, PromptSize

SAMPLES = 8


def choose_samples(reader: Reader, count: int = SAMPLES) -> list[Problem]:
    """Training problems where sides disagree first, if anywhere: extremes of image and length, then others evenly."""
    assert reader.loaded is not None
    problems = reader.loaded.train

    def size(problem: Problem) -> PromptSize:
        return reader.sizes[problem.id]

    def pixels(problem: Problem) -> list[int]:
        return [image.width * image.height for image in size(problem).images] or [0]

    def thinness(problem: Problem) -> float:
        sides = [(image.width, image.height) for image in size(problem).images]
        return max((max(side) / min(side) for side in sides), default=0.0)

    with_images = [problem for problem in problems if problem.images]
    without = [problem for problem in problems if not problem.images]
    extremes: list[Callable[[Problem], float]] = [
        lambda p: max(pixels(p)),
        lambda p: -min(pixels(p)),
        thinness,
        lambda p: len(p.images),
        lambda p: size(p).tokens,
    ]
    chosen = [max(with_images, key=key) for key in extremes if with_images] + without[:1]
    chosen += [problems[index * len(problems) // count] for index in range(count)]
    return list({problem.id: problem for problem in chosen}.values())[:count]


def check_samples(
    reader: Reader, builder: PromptBuilder, loaded: LoadedProcessor, empty: Any
) -> tuple[CheckResult, list[Prompt]]:
    """Compare both sides of real samples; returns their prompts as well.

    Args:
        reader: the data.
        builder: the trainer's side.
        loaded: the model's folder.
        empty: the model without weights, for its positions.
    """
    check = CheckResult("samples", "Trainer and engine on real samples")
    prompts = [builder.build(problem) for problem in choose_samples(reader)]
    rows, facts = [], []
    for prompt in prompts:
        seen = loaded.family.stock_view(prompt, loaded.processor, empty)
        same = compare(prompt, seen)
        sizes = [f"{image.width}x{image.height}" for image in reader.sizes[prompt.problem.id].images]
        shown = [f"{image.width}x{image.height}" for image in prompt.images]
        facts.append({"id": prompt.problem.id, "images": sizes, "resized": shown, "tokens": len(prompt), **same})
        marks = ["✓" if same[part] else "✗" for part in ("ids", "grids", "positions")]
        rows.append([prompt.problem.id, " ".join(sizes), " ".join(shown), str(len(prompt)), *marks])
    check.facts = {"samples": facts}
    check.grids = [Grid("", ("problem", "image", "seen as", "tokens", "ids", "grid", "positions"), rows)]
    agreed = sum(all(fact[part] for part in ("ids", "grids", "positions")) for fact in facts)
    check.summary = f"ids, grids and positions of both sides agree on {agreed} of {len(facts)} samples"
    _blame_limits(check, reader, loaded, facts)
    strange = [fact for fact in facts if fact["grids"] and not (fact["ids"] and fact["positions"])]
    if strange:
        part = "ids" if not strange[0]["ids"] else "positions"
        check.blame(
            "prompts differ",
            f"problem {strange[0]['id']}: {part} of trainer and model differ although the grids agree",
            Remedy(command="pip install --upgrade mmhicra", words="and report it: this must not happen"),
        )
    return check, prompts


def compare(prompt: Prompt, seen: StockView) -> dict[str, bool]:
    """Whether ids, grids and positions are equal."""
    return {
        "ids": prompt.expanded_ids.equal(seen.ids),
        "grids": prompt.vision.same_images(seen.vision),
        "positions": prompt.vision.positions.equal(seen.vision.positions),
    }


def _blame_limits(check: CheckResult, reader: Reader, loaded: LoadedProcessor, facts: Sequence[dict[str, Any]]) -> None:
    """The folder's own pixel limits change what the trainer's have made."""
    data, size = reader.config.data, loaded.processor.image_processor.size
    least, most = int(size["shortest_edge"]), int(size["longest_edge"])
    check.facts["limits"] = {"trainer": [data.min_pixels, data.max_pixels], "folder": [least, most]}
    first = next((fact for fact in facts if not fact["grids"]), None)
    if first is None:
        return
    images = [image for each in reader.sizes.values() for image in each.images]
    again = sum(loaded.family.resized(loaded.config, image[2:4], (least, most)) != image[2:4] for image in images)
    check.facts["resized_again"] = again
    remedies = []
    if data.max_pixels > most:
        remedies.append(Remedy("data.max_pixels", most))
    if data.min_pixels < least:
        remedies.append(Remedy("data.min_pixels", least))
    remedies.append(
        Remedy(
            words=f"in the image processor's configuration in {loaded.path}: "
            f'"size": {{"shortest_edge": {data.min_pixels}, "longest_edge": {data.max_pixels}}}'
        )
    )
    check.blame(
        "pixel limits differ",
        f"{again} of {len(images)} images are resized again by the limits of the model's folder ({least} to {most} "
        f"pixels; data.min_pixels and data.max_pixels say {data.min_pixels} to {data.max_pixels}), e.g. of problem "
        f"{first['id']}, {first['images'][0]}, seen as {first['resized'][0]} in training: an engine or a server that "
        "reads the folder sees other image tokens",
        *remedies,
    )
