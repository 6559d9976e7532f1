"""The section `eval` of the configuration: what is evaluated on, when, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mmhicra.config.base import NamedOrPlugin, NonNegative, PathText, Positive, Samples, Section, Tokens
from mmhicra.core.names import BenchmarkName


class BenchmarkConfig(Section):
    """A benchmark that the model is evaluated on; see docs/guides/evaluation.md."""

    name: Annotated[str, NamedOrPlugin(BenchmarkName, file=".yaml")]
    """Which benchmark, or the card of one of your own: see docs/extend/benchmark.md."""
    source: PathText | None = None
    """Its questions: a file, a folder or a hub id; None is the hub id on its card."""
    split: str | None = None
    """Of the source; None is the one on its card."""
    images: PathText | None = None
    """What relative image paths are relative to; None is the folder of the file that names them."""
    subset: PathText | None = None
    """A subset that ships (`mathvista_240`, ...) or a file of ids; None is all questions."""
    limit: Positive | None = None
    """Only the first so many of these questions."""
    prompt: str | None = None
    """One of the prompts on its card; None is the first."""


class EvalConfig(Section):
    """Accuracy on held-out problems and benchmarks before, during and after training."""

    problems: Annotated[int, Field(ge=0, le=10**6)] = 300
    """Held-out problems; 0 holds nothing out."""
    benchmarks: list[BenchmarkConfig] = Field(default=[])
    """Benchmarks that are evaluated on beside held-out problems."""
    every: NonNegative = 0
    """Steps between evaluations; 0 evaluates before and after only."""
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """0 is greedy, else 0.01 to 100."""
    n: Samples = 1
    """Completions per problem; accuracy is their mean."""
    max_new_tokens: Tokens | None = None
    """The longest response to a benchmark's question; None is `rollout.max_new_tokens`."""
    keep_best: bool = True
    """Keep the checkpoint of the best evaluation so far, whatever `log.keep_checkpoints` says."""
    best_by: str | None = None
    """The metric that says which is best, e.g. `eval/mathvista`; None is the mean over the benchmarks, or held-out
    accuracy where there are none."""

    @model_validator(mode="after")
    def _check(self) -> EvalConfig:
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"benchmarks lists {twice} twice: keep one")
        if 0 < self.temperature < 0.01:
            raise ValueError(f"temperature is {self.temperature}: it should be 0, which is greedy, or at least 0.01")
        return self
