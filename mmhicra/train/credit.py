"""From a step's rewards to its advantages, by the configured method; what a method learns on the way is kept here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmhicra.config import CreditConfig, HicraConfig
from mmhicra.core.records import Group
from mmhicra.hicra.alpha import AlphaController
from mmhicra.hicra.controls import Sample, placebo_library
from mmhicra.hicra.credit import CreditOptions, assign_credit
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.own_method import find_method, needs_entropy
from mmhicra.hicra.planning import PlanningMatcher, PlanningTags


class CreditAssigner:
    """Tags planning tokens and assigns credit; its state (alpha, placebo n-grams) goes into checkpoints.

    Args:
        credit: the section `credit` of the configuration.
        hicra: the section `hicra`: how alpha moves.
        matcher: of the Strategic Grams.
        tokenizer: of the policy.
        seed: of the run; the placebo's n-grams are drawn by it.
    """

    def __init__(
        self, credit: CreditConfig, hicra: HicraConfig, matcher: PlanningMatcher, tokenizer: Any, seed: int
    ) -> None:
        self.credit = credit
        self.controller = make_controller(hicra, credit)
        self.matcher = matcher
        self.tokenizer = tokenizer
        self.rule = find_method(credit.method)
        self.seed = seed
        self.placebo: PlanningMatcher | None = None

    @property
    def needs_entropy(self) -> bool:
        """Whether the method reads token entropies, which takes a forward pass before it."""
        return needs_entropy(self.credit.method, self.rule)

    @property
    def follows_drift(self) -> bool:
        """Whether alpha follows the policy's drift, which takes a forward pass before and after the update."""
        return self.controller.signal == "kl"

    @property
    def lacks_placebo(self) -> bool:
        """Whether the random n-grams have to be drawn first."""
        return self.credit.method == "placebo" and self.placebo is None

    def samples(self, groups: Sequence[Group]) -> list[Sample]:
        """What placebo n-grams are drawn from."""
        return [Sample(completion.ids, completion.text) for group in groups for completion in group.completions]

    def draw_placebo(self, samples: Sequence[Sample]) -> None:
        """Draw the random n-grams, once in a run: from the responses of its first step, on all ranks.

        Raises:
            UserError: the responses cannot supply them.
        """
        self._use_placebo(placebo_library(samples, self.matcher, self.tokenizer, self.seed))

    def tag_planning(self, group: Group) -> None:
        """Search the completions of a group once for planning tokens; what is found stays on each of them."""
        for completion in group.completions:
            tags = self.matcher.read(completion.ids)
            completion.planning_tags, completion.planning = tags, tags.planning
            completion.placebo = self.placebo.mask(completion.ids) if self.placebo else None

    def assign(self, group: Group, step: int, *, kept: bool) -> None:
        """Set the per-token advantages of a group of this step; if it is not kept, for the record only."""
        options = credit_options(self.credit, self.controller.at(step))
        assign_credit(group, self.rule if kept else "grpo", options, self.credit.scale)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, JSON-able."""
        placebo = self.placebo and {
            "grams": [gram.text for gram in self.placebo.gram_library.grams],
            "provenance": dict(self.placebo.gram_library.provenance),
        }
        return {"alpha": self.controller.alpha, "placebo": placebo}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where `state` left off."""
        self.controller.alpha = state["alpha"]
        if state["placebo"]:
            grams = tuple(Gram(text) for text in state["placebo"]["grams"])
            self._use_placebo(GramLibrary("placebo", grams, state["placebo"]["provenance"]))

    def _use_placebo(self, library: GramLibrary) -> None:
        self.placebo = PlanningMatcher(library, self.tokenizer)


def credit_options(credit: CreditConfig, alpha: float) -> CreditOptions:
    """How strongly the method acts while alpha is this."""
    return CreditOptions(
        alpha=alpha,
        top_share=credit.top_share,
        entropy_weight=credit.entropy_weight,
        entropy_divisor=credit.entropy_divisor,
    )


def planning_tags(group: Group) -> list[PlanningTags]:
    """What the search for planning tokens found in each completion of a group.

    Raises:
        ValueError: a completion was not searched.
    """
    found = [completion.planning_tags for completion in group.completions]
    searched = [tags for tags in found if tags is not None]
    if len(searched) != len(found):
        raise ValueError(f"group of problem {group.prompt.problem.id}: not every completion was searched for planning")
    return searched


def make_controller(options: HicraConfig, credit: CreditConfig) -> AlphaController:
    """Constant, scheduled or adaptive alpha, as configured; 0 for a method that amplifies nothing."""
    if not credit.amplifies:
        return AlphaController(0.0)
    if options.schedule:
        return AlphaController(options.alpha, end=options.schedule.end, steps=options.schedule.steps)
    if options.adaptive:
        return AlphaController(options.alpha, **options.adaptive.model_dump())
    return AlphaController(options.alpha)
