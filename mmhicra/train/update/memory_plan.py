"""A memory plan: what a configuration takes on one device, part by part, before anything is loaded.

`plan_memory` is a pure function of the model's shape and of the load that a configuration puts on it. Weights,
gradients and optimizer state are exact; activations are counted tensor by tensor for the layers as they are written,
and hold within a factor of `ACTIVATION_FACTOR` of what was measured. Shapes: L tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from mmhicra.rollout.hf.cache import BLOCK
from mmhicra.train.update.load import Load
from mmhicra.train.update.logprob import KEPT_BYTES
from mmhicra.train.update.stored_bytes import masters, optimizer_bytes, reference_bytes, weight_bytes
from mmhicra.vlm.activation_checkpointing import KINDS
from mmhicra.vlm.features import PATCHES_AT_A_TIME
from mmhicra.vlm.shape import ModelShape

ACTIVATION_FACTOR = 1.15
"""The measured peak of an update lies between estimate / factor and estimate x factor (tests/doctor/test_memory.py)."""

FLOAT, HALF, DOUBLE = 4, 2, 8
"""Bytes of one value in float32, bfloat16 and float64."""
QUANTIZED = 0.516
"""Bytes of one in nf4 with doubly quantised scales: 4.127 bits (arXiv 2305.14314, section 3)."""

Phase = Literal["update", "optimizer step", "rollout", "evaluation"]


@dataclass(frozen=True)
class Plan:
    """Bytes by part, in each phase of a step; what is held throughout is in every phase."""

    held: dict[str, int]
    phases: dict[Phase, dict[str, int]]

    def total(self, phase: Phase) -> int:
        """Bytes of one phase, what is held throughout included."""
        return sum(self.held.values()) + sum(self.phases[phase].values())

    @property
    def fullest(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes of that phase."""
        return self.total(self.fullest)


def plan_memory(shape: ModelShape, load: Load) -> Plan:
    """Bytes that a run takes on one device."""
    ranks = load.shards
    copied = load.processes > 1 and not load.shard
    held = {
        "weights": (weight_bytes(shape, load.storage) - saved_by_quantizing(shape, load)) // ranks,
        "optimizer": 0 if load.offload and load.cuda else optimizer_bytes(shape, load.storage) // ranks,
        "reference": 0 if not load.reference or load.adapters else reference_bytes(shape, load.storage) // ranks,
        "buckets of data parallelism": FLOAT * shape.trained if copied else 0,
        "engine": 0 if load.embedded or load.engine_rests else load.engine,
    }
    gradients = FLOAT * shape.trained // ranks
    phases: dict[Phase, dict[str, int]] = {
        "update": update(shape, load, gradients),
        "optimizer step": {
            "gradients": gradients,
            "room of the step": room_of_the_step(shape, load) // ranks if load.cuda else 0,
        },
        "rollout": rolling_out(shape, load),
    }
    if load.evaluation_group:
        phases["evaluation"] = rolling_out(shape, load.evaluating)
    return Plan(_above_zero(held), {phase: _above_zero(parts) for phase, parts in phases.items()})


def room_of_the_step(shape: ModelShape, load: Load) -> int:
    """torch's AdamW updates all tensors at once, which takes a float32 value of each; `StoredAdamW` one at a time."""
    stored = bool(masters(shape, load.storage)) or load.storage.eight_bits or load.offload
    return FLOAT * (shape.vocabulary * shape.hidden if stored else shape.trained)


def saved_by_quantizing(shape: ModelShape, load: Load) -> int:
    """Bytes that float32 weights of the decoder's linear layers would take more than 4-bit ones with their scales."""
    return int((FLOAT - QUANTIZED) * decoder_linear(shape)) if load.quantized else 0


def decoder_linear(shape: ModelShape) -> int:
    """Weights of the decoder's linear layers, the head not counted."""
    return shape.linear - shape.vocabulary * shape.hidden


def cast_linear(shape: ModelShape, load: Load) -> int:
    """Weights that autocast copies to bfloat16; of 4-bit layers one at a time is dequantised.

    Of weights held in bfloat16 that is the head alone, if it is tied to the embeddings.
    """
    if load.storage.half_weights:
        return shape.vocabulary * shape.hidden if shape.tied else 0
    return shape.linear - decoder_linear(shape) + shape.block if load.quantized else shape.linear


def rolling_out(shape: ModelShape, load: Load) -> dict[str, int]:
    """Parts of one batch of rollouts; an engine of its own has its memory already."""
    # On the CPU the pixels of all prompts share the memory; before a GPU they wait outside.
    pixels = 0 if load.cuda else FLOAT * load.step_prompts * load.patches * shape.patch_values
    if not load.embedded:
        return {"images": pixels, "engine": load.engine if load.engine_rests else 0}
    gathered = load.shard and load.processes > 1
    width = HALF if load.half else FLOAT
    cast = HALF * cast_linear(shape, load) if load.half and not gathered else 0
    # See `rollout.hf.packed`: rounded copies on any device, others on a CPU that computes in float32.
    copied = HALF if load.samples_rounded else FLOAT * (not load.cuda)
    packed = 0 if load.half else copied * shape.linear
    return {
        "images": pixels,
        "whole weights": width * shape.parameters if gathered else 0,
        "copies of weights": cast + packed,
        "KV cache": kv_cache(shape, load),
        "prefill and sampling": max(prefill(shape, load), sampling(shape, load)),
    }


def activations(shape: ModelShape, load: Load) -> int:
    """What the largest micro-batch keeps between its forward and its backward pass."""
    stream = load.micro_tokens * FLOAT * shape.hidden
    count = checkpointed_layers(shape, load)
    layers = count * kept_by_a_layer(shape, load) + (shape.layers - count) * saved_by_a_layer(shape, load)
    return load.micro_tokens * layers + (2 + shape.deepstack) * stream + tower_activations(shape, load)


def update(shape: ModelShape, load: Load, gradients: int) -> dict[str, int]:
    """The fullest moment of a micro-batch: at the logits, or a layer on its way back.

    Gradients of earlier micro-batches are there throughout. Those of a micro-batch that is alone come as its
    activations go.
    """
    kept = {"activations": activations(shape, load)}
    scoring = {"working set": scores(shape, load), "copies of weights": copies(shape, load, back=False)}
    back = {"working set": layer_going_back(shape, load), "copies of weights": copies(shape, load, back=True)}
    moments = [kept | scoring, kept | back]
    if load.alone:
        moments.append({"gradients": gradients, "working set": back["working set"]})
    else:
        moments = [{"gradients": gradients} | moment for moment in moments]
    return max(moments, key=lambda parts: sum(parts.values()))


def layer_going_back(shape: ModelShape, load: Load) -> int:
    """What the backward pass of one decoder layer takes beside what was kept."""
    layer = load.micro_tokens * passing_in_a_layer(shape, load)
    if checkpointed_layers(shape, load):
        again = FLOAT * shape.hidden if load.checkpointing == "full" else kept_by_a_layer(shape, load)
        layer += load.micro_tokens * (saved_by_a_layer(shape, load) - again)
    return layer + (FLOAT + 1) * (load.sequence * load.micro_tokens) ** 2 * load.dense


def saved_by_a_layer(shape: ModelShape, load: Load) -> int:
    """Bytes a token that a decoder layer keeps for its backward pass.

    Residual stream and norms are float32 in either precision. Under autocast every linear layer casts its input anew,
    so what three of them read is kept three times.
    """
    hidden, query, key, inner = shape.hidden, shape.query, shape.key, shape.inner
    width = HALF if load.half else FLOAT
    norm = 0 if load.adapters else FLOAT * hidden  # the normalised input is needed for the norm's weight alone
    stream = 2 * FLOAT * hidden + 2 * norm
    readers = 5 * HALF * hidden if load.half else 2 * FLOAT * hidden
    attention = width * (2 * query + 2 * key) + 2 * FLOAT * (query + key) * shape.normed_heads
    mlp = 4 * width * inner
    return stream + readers + attention + mlp + width * shape.adapter


def checkpointed_layers(shape: ModelShape, load: Load) -> int:
    """Decoder layers that compute again what they do not keep."""
    if load.checkpointing == "none":
        return 0
    return shape.layers if load.checkpointed is None else min(shape.layers, load.checkpointed)


def kept_by_a_layer(shape: ModelShape, load: Load) -> int:
    """Bytes a token that a checkpointed decoder layer keeps: its input in float32, and with `selective` the outputs of
    its products but the last, and of attention: within spans, and from responses to prompts."""
    if load.checkpointing == "full":
        return FLOAT * shape.hidden
    width = HALF if load.half else FLOAT
    products = shape.query + 2 * shape.key + shape.hidden + 2 * shape.inner
    return FLOAT * shape.hidden + width * (products + 2 * shape.query + shape.adapter)


def passing_in_a_layer(shape: ModelShape, load: Load) -> int:
    """Bytes a token on top of what a layer keeps: the gradients of its MLP, or the copies that attention makes after
    the MLP is done with."""
    width = HALF if load.half else FLOAT
    mlp, attention = width * 2 * shape.inner, width * (8 * shape.query - 4 * shape.inner)
    return max(mlp, attention) + 2 * FLOAT * shape.hidden


def tower_activations(shape: ModelShape, load: Load) -> int:
    """Bytes that the vision tower keeps for its backward pass; a frozen one keeps nothing.

    Where its blocks are checkpointed that is each one's input, with `selective` the outputs of its products, and
    everything of the one that is on its way back.
    """
    width = HALF if load.half else FLOAT
    kept = {"none": shape.tower_saved, "selective": shape.tower_products, "full": shape.tower_width}[load.checkpointing]
    again = 0 if load.checkpointing == "none" else shape.tower_saved
    saved = shape.tower_layers * kept + again + shape.merger_saved + shape.patch_values
    return load.micro_patches * width * saved


def scores(shape: ModelShape, load: Load) -> int:
    """The norm before the head, one chunk of logits in the backward pass, and the gradient of the head."""
    positions = min(load.chunk, load.micro_tokens)
    floats = (5 if load.nucleus else 3) + (1 if load.half else 0)
    head = 0 if load.adapters else FLOAT * shape.vocabulary * shape.hidden
    norm = 3 * load.micro_tokens * FLOAT * shape.hidden + kept_logits(shape, load)
    return norm + positions * shape.vocabulary * FLOAT * floats + head


def kept_logits(shape: ModelShape, load: Load) -> int:
    """What `train.logprob_kernel: fused` keeps of the response tokens: logits on CUDA, else float32 log-probs."""
    if not load.logits_kept:
        return 0
    responses = load.micro_tokens * load.group * load.response // (load.prompt + load.group * load.response)
    return min(KEPT_BYTES, responses * shape.vocabulary * (HALF if load.half and load.cuda else FLOAT))


def copies(shape: ModelShape, load: Load, *, back: bool) -> int:
    """bfloat16 copies that autocast makes of weights, or the blocks that a sharded model makes whole.

    Autocast keeps its copies to the end of the forward pass, and longer if the backward pass needs them: with gradient
    checkpointing that takes those of one layer, made again.
    """
    width = HALF if load.half else FLOAT
    if load.shard and load.processes > 1:
        return 2 * width * max(shape.block, shape.vocabulary * shape.hidden)
    if not load.half:
        return 0
    if not back or load.storage.half_weights:
        return HALF * cast_linear(shape, load)
    count = checkpointed_layers(shape, load)
    kept = cast_linear(shape, load) - (shape.vocabulary * shape.hidden if count == shape.layers else 0)
    return HALF * max(shape.block if count else 0, kept * (shape.layers - count) // shape.layers)


def kv_cache(shape: ModelShape, load: Load) -> int:
    """Keys and values of prompts and responses that decode together, while the buffers grow for the last time."""
    width = HALF if load.half else FLOAT
    token = 2 * shape.layers * shape.key * width
    rows = load.sequences
    return token * (rows // load.group * load.prompt + rows * sum(slots(load.response)))


def slots(response: int) -> tuple[int, int]:
    """Slots of the buffers of a response before and after they grow for the last time; both are held at that moment."""
    before, after = 0, BLOCK
    while after < response:
        before, after = after, after + max(BLOCK, after // 2)
    return before, after


def prefill(shape: ModelShape, load: Load) -> int:
    """One forward pass over all prompts that decode together, or over the images that are encoded together."""
    width = HALF if load.half else FLOAT
    tokens = load.sequences // load.group * load.prompt
    text = tokens * (width * (3 * shape.inner + 2 * shape.query) + 3 * FLOAT * shape.hidden)
    images = min(load.patches * (load.sequences // load.group), PATCHES_AT_A_TIME)
    tower = images * width * (shape.tower_saved + shape.patch_values)
    return max(text, tower)


def sampling(shape: ModelShape, load: Load) -> int:
    """Drawing one token for every row: logits, log-probs, and the cumulated probabilities in double precision."""
    return load.sequences * shape.vocabulary * (2 * FLOAT + 2 * DOUBLE)


def largest_budget(shape: ModelShape, load: Load, capacity: int) -> int | None:
    """The most tokens per micro-batch that fit into `capacity` bytes, rounded down to 256; None if not even one group's
    prompt and response do.

    More than a whole optimizer step holds is never used, so that is the most it says.
    """
    looked_at = 0 if load.vision_frozen else load.patches
    least = load.prompt + looked_at + load.response
    most = load.whole

    def fits(budget: int) -> bool:
        return plan_memory(shape, replace(load, budget=budget)).total("update") <= capacity

    return _largest(fits, least, most, 256)


def choose_checkpointing(shape: ModelShape, load: Load, capacity: int) -> Load:
    """`load` with the checkpointing that computes least again of what fits an update into `capacity` bytes.

    None at all; `selective`, then `full`, in as few layers as will do; where nothing fits, `full` in all of them.
    """
    if plan_memory(shape, kept := replace(load, checkpointing="none", checkpointed=None)).total("update") <= capacity:
        return kept
    for kind in KINDS[1:]:
        for count in range(1, shape.layers + 1):
            fewer = replace(load, checkpointing=kind, checkpointed=None if count == shape.layers else count)
            if plan_memory(shape, fewer).total("update") <= capacity:
                return fewer
    return replace(load, checkpointing=KINDS[-1], checkpointed=None)


def checkpointing_text(load: Load) -> str:
    """For a line to a person."""
    return load.checkpointing + (f" in the first {load.checkpointed} layers" if load.checkpointed is not None else "")


def most_sequences(shape: ModelShape, load: Load, capacity: int, phase: Phase) -> int | None:
    """The most completions that decode at a time in `capacity` bytes, in whole groups; None if not even one group."""
    evaluation = phase == "evaluation"
    group = load.evaluation_group if evaluation else load.group
    now = load.evaluation_sequences if evaluation else load.sequences

    def fits(groups: int) -> bool:
        count = groups * group
        changed = replace(load, evaluation_sequences=count) if evaluation else replace(load, sequences=count)
        return plan_memory(shape, changed).total(phase) <= capacity

    groups = _largest(fits, 1, max(1, now // group), 1)
    return None if groups is None else groups * group


def _largest(fits: Callable[[int], bool], least: int, most: int, step: int) -> int | None:
    """The largest number from `least` to `most` that fits, on multiples of `step` where one of them lies in between."""
    if not fits(least):
        return None
    if fits(most):
        return most
    low, high = least, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(least, low // step * step)


def _above_zero(parts: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}
