"""TRL's side of `mmhicra bench train`: its own GRPO trainer on the same model, prompt and responses, phase by phase."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, StoppingCriteria

from benchmarks.machine import now
from benchmarks.ours import LEARNING_RATE
from benchmarks.shapes import Regime
from mmhicra.core.errors import UserError
from mmhicra.core.records import Group


def refuse_missing() -> None:
    """Raise UserError if TRL is not installed."""
    if importlib.util.find_spec("trl") is None:
        raise UserError("bench train --against trl needs the package trl: install mmhicra[bench]")


class RowLengths(StoppingCriteria):
    """Rows end at given lengths behind the prompt, as on our side."""

    def __init__(self, prompt: int, lengths: Sequence[int]) -> None:
        self.prompt, self.lengths = prompt, torch.tensor(lengths)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """(rows,) bool."""
        return input_ids.shape[1] - self.prompt >= self.lengths.to(input_ids.device)


class Trl:
    """`trl.GRPOTrainer` with its vision tower frozen as ours is, taking one step at a time.

    It generates with transformers (no vLLM), without old log-probs (it skips them for one update a batch) and without a
    reference. A group is one micro-batch, or several of `rows` responses.

    Args:
        model, problems, regime, precision, checkpointing, folder: as of our side.
        shared: our side's model, to be used by turns; None loads one of its own.
        rows: responses of a micro-batch; 0 is all.
    """

    name = "trl"

    def __init__(
        self,
        model: Path,
        problems: Path,
        regime: Regime,
        precision: str,
        checkpointing: str,
        folder: Path,
        shared: Any = None,
        rows: int = 0,
    ) -> None:
        trl: Any = importlib.import_module("trl")  # an optional package

        dtype = torch.float32  # master weights; bf16 is autocast over them, as on our side
        self.shared = shared
        policy = shared or Qwen2_5_VLForConditionalGeneration.from_pretrained(
            model, dtype=dtype, attn_implementation="sdpa"
        )
        policy.model.visual.requires_grad_(False)
        lines = [json.loads(line) for line in problems.read_text(encoding="utf-8").splitlines()]
        self.rows = {
            row["id"]: {
                "prompt": [{"role": "user", "content": row["question"].removeprefix("<image>")}],
                "image": Image.open(problems.parent / row["images"][0]).convert("RGB"),
            }
            for row in lines
        }
        count = len(regime.responses)
        self.parts = count // (rows or count)
        arguments = trl.GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=count,
            num_generations=count,
            gradient_accumulation_steps=1,
            max_completion_length=max(regime.responses),
            learning_rate=LEARNING_RATE,
            beta=0.0,
            gradient_checkpointing=checkpointing != "none",
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            use_vllm=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        self.trainer: Any = trl.GRPOTrainer(
            model=policy,
            reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in self.rows.values()]),
            processing_class=AutoProcessor.from_pretrained(model),
        )
        trainer, self.regime = self.trainer, regime
        trainer.create_optimizer_and_scheduler(num_training_steps=1000)
        trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped, trainer.current_gradient_accumulation_steps = trainer.model, 1
        # Random weights may draw the end token at any time: rows end by their lengths alone, as on our side.
        trainer.generation_config.eos_token_id = None
        inner = trainer.accelerator.unwrap_model(trainer.model)
        inner.generate = partial(inner.generate, stopping_criteria=[RowLengths(regime.prompt, regime.responses)])

    def close(self) -> None:
        """Nothing to do."""

    def step(self, group: Group) -> dict[str, float]:
        """Generate for the problem of `group`, then update on its responses: seconds by phase."""
        trainer = self.trainer
        start = now()
        inputs = self.generate(group)
        phases = {"rollout": now() - start}
        phases |= self.update(self.with_responses(inputs, group))
        start = now()
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        phases["optimizer"] = now() - start
        return phases | {"step": sum(phases.values())}

    def update(self, inputs: dict[str, Any]) -> dict[str, float]:
        """Forward and backward: seconds of both."""
        trainer = self.trainer
        trainer.model.train()
        phases = {"forward": 0.0, "backward": 0.0}
        with self.turn():
            for part in self.split(inputs):
                marks = [now()]
                loss = trainer.compute_loss(trainer.model, part)
                marks.append(now())
                trainer.accelerator.backward(loss)
                marks.append(now())
                for phase, (start, end) in zip(phases, itertools.pairwise(marks), strict=True):
                    phases[phase] += end - start
        return phases

    def updating(self, group: Group, generates: bool = True) -> Callable[[], dict[str, float]]:
        """Forward and backward on the responses of `group`, and the gradients thrown away; the batch is made before.

        Without `generates` the batch is made of TRL's own for one generated token.
        """
        trainer = self.trainer
        trainer.model.train()
        inputs = self.with_responses(self.generate(group, 0 if generates else 1), group)

        def update() -> dict[str, float]:
            phases = self.update(inputs)
            trainer.optimizer.zero_grad(set_to_none=True)
            return phases

        return update

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A shared model attends as it does for TRL in here."""
        if self.shared is None:
            yield
            return
        text = self.shared.model.language_model.config
        ours, text._attn_implementation = text._attn_implementation, "sdpa"
        try:
            yield
        finally:
            text._attn_implementation = ours

    def split(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Micro-batches, as TRL itself splits a batch."""
        utils: Any = importlib.import_module("trl.trainer.utils")
        parts = utils.split_tensor_dict(utils.split_pixel_values_by_grid(inputs), self.parts)
        return [utils.unsplit_pixel_values_by_grid(part) for part in parts]

    def generate(self, group: Group, tokens: int = 0) -> dict[str, Any]:
        """TRL's batch for the problem of `group`; with `tokens`, of responses that are no longer."""
        row = self.rows[group.prompt.problem.id.rpartition("/")[-1]]  # the file it came from stands before
        config = self.trainer.generation_config
        longest, config.max_new_tokens = config.max_new_tokens, tokens or config.max_new_tokens
        try:
            with self.turn():
                return self.trainer._generate_and_score_completions([row] * len(self.regime.responses))
        finally:
            config.max_new_tokens = longest

    def with_responses(self, inputs: dict[str, Any], group: Group) -> dict[str, Any]:
        """TRL's own batch with the responses of `group`, right-padded as it pads them."""
        responses = [torch.tensor(completion.ids) for completion in group.completions]
        ids = torch.nn.utils.rnn.pad_sequence(
            responses, batch_first=True, padding_value=self.trainer._tokenizer.pad_token_id
        )
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in responses], batch_first=True)
        if inputs["prompt_ids"].shape[1] != self.regime.prompt:
            raise UserError(f"TRL's prompt has {inputs['prompt_ids'].shape[1]} tokens, ours {self.regime.prompt}")
        advantages = torch.tensor([c.base_advantage for c in group.completions])
        kinds = torch.nn.functional.pad(inputs["mm_token_type_ids"][:, : self.regime.prompt], (0, ids.shape[1]))
        device = inputs["prompt_ids"].device
        replaced = {
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": advantages,
            "mm_token_type_ids": kinds,
        }
        count = torch.tensor(sum(map(len, responses)))
        return inputs | {name: value.to(device) for name, value in (replaced | {"num_items_in_batch": count}).items()}
