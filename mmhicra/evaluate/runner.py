"""Questions answered by a rollout engine and scored: the one path of `mmhicra eval` and of evaluation in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Group, Problem
from mmhicra.evaluate.questions import QuestionSet
from mmhicra.evaluate.scoring.judging import AnswerJudge
from mmhicra.evaluate.scoring.records import Item, Response
from mmhicra.evaluate.scoring.score import Scores, score_and_judge
from mmhicra.rewards.workers import Verifier
from mmhicra.rollout.engine import Engine, Sampling, sampling_of
from mmhicra.rollout.portions import generate_in_portions
from mmhicra.vlm.loading import LoadedModel, LoadedProcessor
from mmhicra.vlm.processing import PromptBuilder

EVALUATION_STEP = -1
"""The step that evaluation seeds derive from: before and after are sampled with the same random numbers."""


@dataclass(frozen=True)
class BenchmarkRunner:
    """How questions are put to a model, alike in the loop and offline.

    Attributes:
        engine: generates.
        prompts: builds prompts, without the instruction of training.
        sampling: how responses are drawn.
        seed: of the run.
        at_a_time: questions in one call of the engine. They are always the same ones together, so that a run that was
            killed and resumed computes what an unbroken one does, to the bit.
        meets: whether a call of the engine is one of several processes (tensor parallelism), so that one without
            questions has to make it, too.
    """

    engine: Engine
    prompts: PromptBuilder
    sampling: Sampling
    seed: int
    at_a_time: int
    meets: bool = False

    def answer(
        self, problems: Sequence[Problem], on_finish: Callable[[int], None] = lambda done: None
    ) -> Iterator[list[Group]]:
        """Answer `problems`, `at_a_time` of them together.

        Args:
            problems: in the order they are asked.
            on_finish: told how many responses have come in so far.
        """
        return generate_in_portions(
            self.engine,
            problems,
            lambda portion: [self.prompts.build(problem) for problem in portion],
            self.sampling,
            seed=self.seed,
            step=EVALUATION_STEP,
            at_a_time=self.at_a_time,
            on_finish=on_finish,
        )


def make_runner(config: RunConfig, model: LoadedModel, engine: Engine) -> BenchmarkRunner:
    """How `config.eval` says benchmarks are asked."""
    sampling = benchmark_sampling(config, model)
    return BenchmarkRunner(
        engine=engine,
        prompts=benchmark_prompts(config, model),
        sampling=sampling,
        seed=config.seed,
        at_a_time=max(1, config.rollout.max_sequences // sampling.n),
        meets=config.rollout.engine == "vllm" and config.rollout.vllm.tensor_parallel > 1,
    )


def benchmark_prompts(config: RunConfig, model: LoadedProcessor) -> PromptBuilder:
    """Prompts with the configured limits and system prompt; the benchmark's own prompt is the instruction."""
    data = config.data.model_copy(update={"instruction": ""})
    return PromptBuilder(model.processor, model.family, model.config, data)


def benchmark_sampling(config: RunConfig, model: LoadedModel) -> Sampling:
    """Sampling from the whole vocabulary, at the evaluation's temperature and length.

    Raises:
        ConfigError: several samples of a greedy model are asked for, or see `sampling_of`.
    """
    if config.eval.benchmarks and config.eval.n > 1 and config.eval.temperature == 0:
        raise ConfigError(
            f"eval.n is {config.eval.n}, but eval.temperature 0 gives the same response every time: raise it"
        )
    sampling = sampling_of(config.rollout, model, n=config.eval.n, temperature=config.eval.temperature)
    longest = config.eval.max_new_tokens or config.rollout.max_new_tokens
    return replace(sampling, top_p=1.0, top_k=0, max_new_tokens=longest)


def responses_of(items: Sequence[Item], groups: Sequence[Group]) -> list[list[Response]]:
    """The responses of each group; `items` are their questions."""
    return [
        [
            Response(item.id, c.text, truncated=c.finish_reason == "length", sample=number, tokens=len(c))
            for number, c in enumerate(group.completions)
        ]
        for item, group in zip(items, groups, strict=True)
    ]


def score_responses(
    questions: QuestionSet,
    responses: Sequence[Sequence[Response]],
    verifier: Verifier,
    generation: Mapping[str, Any],
    judge: AnswerJudge | None = None,
) -> dict[str, Scores]:
    """Score in every mode that the benchmark has.

    Args:
        questions: what was asked.
        responses: those to each question, in order.
        verifier: works out what takes algebra.
        generation: how the responses came about, for the result.
        judge: decides what the rules could not.

    Raises:
        UserError: the judge cannot be reached.
    """
    pairs = [(item, response) for item, some in zip(questions.items, responses, strict=True) for response in some]
    lengths = [response.tokens for _, response in pairs if response.tokens is not None]
    scores: dict[str, Scores] = {}
    for mode in questions.card.modes:
        scores[mode] = score_and_judge(questions.benchmark, pairs, mode, verifier=verifier, judge=judge)
        result = scores[mode].result
        result["tokens"] = sum(lengths) / len(lengths) if lengths else None
        result["counts"]["missing"], result["missing"] = 0, []
        result["generation"] = {"prompt": questions.prompt, "questions": questions.facts(), **generation}
    return scores


def decoding_facts(sampling: Sampling) -> dict[str, Any]:
    """How responses were drawn, for a result file."""
    return {
        "n": sampling.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens,
        "stop_token_ids": list(sampling.stop_token_ids),
        **({"stop_strings": list(sampling.stop_strings)} if sampling.stop_strings else {}),
    }


def limits_facts(config: RunConfig) -> dict[str, Any]:
    """What prompts were held to, for a result file."""
    data = config.data
    return {
        "min_pixels": data.min_pixels,
        "max_pixels": data.max_pixels,
        "max_prompt_tokens": data.max_prompt_tokens,
        "system_prompt": data.system_prompt,
        **({"chat_template_kwargs": data.chat_template_kwargs} if data.chat_template_kwargs else {}),
    }
