"""Which golds can be used: a gold written as a completion must earn what a right answer earns."""

from __future__ import annotations

from collections.abc import Sequence

from mmhicra.core.records import Problem
from mmhicra.rewards.answers import extract
from mmhicra.rewards.verify import Outcome, Query
from mmhicra.rewards.workers import Verifier


def gold_problems(problems: Sequence[Problem], verifier: Verifier | None = None) -> list[str | None]:
    r"""Why each gold cannot be used, None where it can: `\boxed{gold}` as a completion must be right.

    Args:
        problems: best a whole data set at once, so that algebra is spread over the workers.
        verifier: used and left open if given, else one is opened for this call.

    Raises:
        UserError: a gold needs algebra and `verifier` has no workers.
    """
    if verifier is None:
        with Verifier() as own:
            return gold_problems(problems, own)
    return [_complaint(outcome) for outcome in verifier.verify_all(list(map(_gold_as_answer, problems)))]


def gold_problem(problem: Problem, verifier: Verifier | None = None) -> str | None:
    """`gold_problems` for one problem."""
    if problem.kind in ("box", "boxes", "point"):
        return (
            f"the gold is a {problem.kind}, which accuracy cannot judge: set reward.accuracy_weight to 0, and weigh "
            "reward.terms or a function of your own"
        )
    return gold_problems([problem], verifier)[0]


def _gold_as_answer(problem: Problem) -> Query:
    boxed = extract(rf"\boxed{{{problem.answer}}}", problem.kind, choices=problem.choices).text
    return Query(boxed, problem.answer, problem.kind, problem.choices, problem.question)


def _complaint(outcome: Outcome) -> str | None:
    if outcome.verdict == "right":
        return None
    if outcome.verdict == "gold-unusable":
        return outcome.why
    return f"the gold as a completion is judged {outcome.verdict}: {outcome.why}"
