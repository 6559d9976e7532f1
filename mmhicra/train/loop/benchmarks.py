"""Benchmarks in the loop: read and checked before the run, answered by the live engine whenever an evaluation is due.

Questions, prompts, batches, seeds and scoring are those of `mmhicra eval`, so the numbers are those that it gives for
the checkpoint of the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmhicra.config import RunConfig
from mmhicra.core.run_folder import RunFolder
from mmhicra.evaluate.questions import QuestionSet, check_questions, load_question_sets
from mmhicra.evaluate.results import write_result
from mmhicra.evaluate.runner import (
    BenchmarkRunner,
    benchmark_prompts,
    decoding_facts,
    limits_facts,
    responses_of,
    score_responses,
)
from mmhicra.evaluate.scoring.records import Response
from mmhicra.evaluate.scoring.score import Scores
from mmhicra.evaluate.store import write_responses
from mmhicra.rewards.workers import Verifier
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.trainer import Trainer
from mmhicra.vlm.loading import LoadedProcessor


@dataclass(frozen=True)
class Benchmarks:
    """The configured question sets, how they are asked, and what works out algebra; empty if there are none."""

    sets: Sequence[QuestionSet]
    runner: BenchmarkRunner
    verifier: Verifier

    def evaluate(self, trainer: Trainer, folder: RunFolder, terminal: Terminal, when: str) -> dict[str, float]:
        """Answer and score every set now; returns the fields of a `metrics.jsonl` line. Every rank must call it.

        Results go to `evaluations/step_*` of the run folder.
        """
        record: dict[str, float] = {}
        for questions in self.sets:
            responses = self._answer(questions, trainer, terminal, when)
            with trainer.ranks.refusing_together():
                if trainer.ranks.is_main:
                    record |= self._score(questions, responses, trainer, folder, terminal, when)
        return trainer.ranks.broadcast(record)

    def _score(
        self,
        questions: QuestionSet,
        responses: Sequence[Sequence[Response]],
        trainer: Trainer,
        folder: RunFolder,
        terminal: Terminal,
        when: str,
    ) -> dict[str, float]:
        facts = generation_facts(trainer.config, self.runner, trainer.step_number)
        scores = score_responses(questions, responses, self.verifier, facts)
        write_evaluation(folder, trainer.step_number, questions, responses, scores)
        said = ", ".join(f"{mode} {_said(scored.result)}" for mode, scored in scores.items())
        terminal.say(f"{questions.card.title} {when}: {said}")
        return metrics_of(questions.name, scores)

    def _answer(self, questions: QuestionSet, trainer: Trainer, terminal: Terminal, when: str) -> list[list[Response]]:
        mine = trainer.ranks.share(range(len(questions.items)))
        answered: list[list[Response]] = []
        n = self.runner.sampling.n
        with (
            terminal.watch(f"{questions.name} {when}", len(mine) * n) as bar,
            trainer.ranks.refusing_together(),  # ranks may have different numbers of questions
            trainer.collector.holding(),
        ):
            problems = [questions.problems[place] for place in mine]
            for groups in self.runner.answer(problems, lambda done: terminal.advance(bar, done)):
                items = [questions.items[place] for place in mine[len(answered) : len(answered) + len(groups)]]
                answered += responses_of(items, groups)
        self.runner.engine.sleep()
        return trainer.ranks.gather_shares(answered)


def load_benchmarks(config: RunConfig, processor: LoadedProcessor, terminal: Terminal) -> list[QuestionSet]:
    """Read the configured benchmarks and check every question, before the weights are loaded.

    Raises:
        DataError: a question cannot be read or asked.
        ConfigError: a benchmark has no such prompt or subset.
    """
    prompts = benchmark_prompts(config, processor)
    sets = load_question_sets(config.eval)
    for questions in sets:
        with terminal.watch(f"checking {questions.name}", len(questions.items)) as bar:
            check_questions(questions, prompts.check, lambda done, bar=bar: terminal.advance(bar, done))
        terminal.say(f"benchmark {questions.card.title}: {len(questions.items)} questions, prompt {questions.prompt}")
    return sets


def generation_facts(config: RunConfig, runner: BenchmarkRunner, step: int) -> dict[str, Any]:
    """How the responses of an evaluation in the loop came about, for its result files."""
    return {
        "model": {"name": f"{config.run_folder}, step {step}", "path": config.model.path, "step": step},
        "engine": config.rollout.engine,
        "precision": config.model.precision,
        "limits": limits_facts(config),
        "decoding": decoding_facts(runner.sampling),
        "seed": config.seed,
        "at_a_time": runner.at_a_time,
    }


def metrics_of(name: str, scores: Mapping[str, Scores]) -> dict[str, float]:
    """`eval/NAME` is the robust accuracy; other modes and counts carry their name behind it."""
    record: dict[str, float] = {}
    for mode, scored in scores.items():
        key = f"eval/{name}" if mode == "robust" else f"eval/{name}_{mode}"
        score, samples = scored.result["score"], scored.result["samples"]
        record |= {key: score["accuracy"], f"{key}_low": score["low"], f"{key}_high": score["high"]}
        if samples:
            record |= {f"{key}_pass_at_{n}": cell["accuracy"] for n, cell in samples["pass"].items()}
            record[f"{key}_maj_at_{samples['k']}"] = samples["maj"]["accuracy"]
    counts = next(iter(scores.values())).result["counts"]
    for flag in ("empty", "truncated"):
        record[f"eval/{name}_{flag}"] = counts[flag] / max(1, counts["samples"])
    return record


def write_evaluation(
    folder: RunFolder,
    step: int,
    questions: QuestionSet,
    responses: Sequence[Sequence[Response]],
    scores: Mapping[str, Scores],
) -> None:
    """The responses, a result for each mode and its lines per sample, as `mmhicra eval` writes them."""
    place = folder.evaluation(step)
    write_responses(place / f"{questions.name}.responses.jsonl", questions, responses)
    for mode, scored in scores.items():
        write_result(place / f"{questions.name}.{mode}.json", scored)


def _said(result: Mapping[str, Any]) -> str:
    score = result["score"]
    return f"{score['accuracy']:.1%} [{score['low']:.1%}, {score['high']:.1%}]"
