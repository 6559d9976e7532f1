"""What a step's rollouts show: outcomes, planning, and where the advantages fall (hicra_spec sections 1.2 and 3).

Pure measurement, cheap enough for every step, and of use without a trainer: it needs scored groups and the
matches of their responses. Entropies are in bits; the paper states neither its unit nor its support, so compare
trends, not values.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmhicra.core.records import Group, Verdict
from mmhicra.hicra.grams import GramLibrary
from mmhicra.hicra.planning import PlanningTags

Mask: TypeAlias = NDArray[np.bool_]
Pair = TypeVar("Pair", bound=tuple[Hashable, Hashable])

TRACKED = (
    "perplexity/planning",
    "perplexity/execution",
    "entropy/planning",
    "entropy/execution",
    "planning/semantic_entropy",
)
"""What `relative` divides by its value at the start of training (paper section 2.2 and figure 3)."""


SHARES = ("accuracy", "format")
"""Terms of the reward that are 0 or 1: their mean says all."""


def spread(values: Iterable[float]) -> dict[str, float]:
    """How values are distributed: standard deviation, lowest, quartiles and highest. Their order does not matter."""
    ordered = np.sort(np.array(list(values), dtype=np.float64))
    low, quarter, middle, three, high = np.quantile(ordered, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
    return {"std": float(ordered.std()), "min": low, "q25": quarter, "median": middle, "q75": three, "max": high}


def semantic_entropy(counts: Mapping[Any, int] | Iterable[int], base: float = 2.0) -> float:
    """Shannon entropy of a frequency distribution: how diverse the strategies of a batch are (paper, 2.2.2).

    Args:
        counts: occurrences by kind (gram, cluster, function), or the occurrences alone; zeros do not matter.
        base: of the logarithm; 2 gives bits, `math.e` nats.

    Returns:
        From 0.0 (no kind, or one) to the logarithm of `support(counts)`.

    Raises:
        ValueError: a count is negative or not finite, or the base is not above 1.
    """
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
    values = _counts(counts)
    if values.size < 2:
        return 0.0
    shares = values / values.sum()
    return float(-(shares * np.log(shares)).sum()) / math.log(base)


def support(counts: Mapping[Any, int] | Iterable[int]) -> int:
    """How many kinds occur: the support of `semantic_entropy`, which cannot exceed its logarithm."""
    return int(_counts(counts).size)


def conditional_entropy(pairs: Mapping[Pair, int]) -> float:
    """sum_g p(g) H(next | g) in bits: how open it is what follows a gram (paper, 2.2.2).

    A gram seen once adds nothing, so a small batch underestimates it: compare batches of one size.

    Args:
        pairs: occurrences by (gram, what followed it).

    Returns:
        From 0.0 (every gram is always followed by the same).

    Raises:
        ValueError: a count is negative or not finite.
    """
    grams: Counter[Any] = Counter()
    for (gram, _), count in pairs.items():
        grams[gram] += count
    return max(0.0, semantic_entropy(pairs) - semantic_entropy(grams))  # the chain rule


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of having a right one among k (Chen et al. 2021).

    Args:
        n: responses sampled.
        c: right ones among them.
        k: how many are looked at.

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    ways = math.comb(n, k)
    return (ways - math.comb(n - c, k)) / ways


def first_values(numbers: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """The first value seen of everything that `relative` tracks: `earlier`, and what these numbers have first.

    Args:
        numbers: a step's metrics.
        earlier: what this function returned at the step before; `{}` at the first.
    """
    now = {**numbers, **_perplexities(numbers)}
    return {**{name: now[name] for name in TRACKED if name in now}, **earlier}


def relative(numbers: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    """Perplexity by token class, exp(-mean log-prob), and what changed since the start as ratios.

    Args:
        numbers: a step's metrics, with `logprob/planning` and `logprob/execution` (nats).
        first: the values at the start of training, from `first_values`.

    Returns:
        `perplexity/planning`, `perplexity/execution`, and `<name>_relative` for every name of `TRACKED`. A
        class without tokens has no perplexity, and a value that began at zero has no ratio.
    """
    perplexities = _perplexities(numbers)
    now = {**numbers, **perplexities}
    ratios = {f"{name}_relative": now[name] / first[name] for name in TRACKED if name in now and first.get(name)}
    return {**perplexities, **ratios}


class RolloutTelemetry:
    """The numbers of a step's groups, added up group by group and, by `merge`, over ranks.

    Outcome and planning numbers are over all groups, masked completions included: what the policy does. Advantages are
    over kept groups without masked completions: what the update sees. Both use the token classes of the `PlanningTags`
    given, whatever mask the credit used; so a placebo is measured on the real grams.

    Attributes:
        gram_counts: occurrences by gram text, overlapping ones included.
        cluster_counts: by `Gram.cluster`; a gram without one is a cluster of its own. Empty if no gram has one.
        function_counts: by `Gram.function`. Empty if every gram of the library is unlabelled.
        continuations: by (gram text, the next `following` token ids); fewer ids where the response ends.
    """

    def __init__(self, library: GramLibrary, following: int = 3) -> None:
        functions = sorted({gram.function for gram in library.grams})
        self.functions = () if functions == ["unlabelled"] else tuple(functions)
        self.clustered = any(gram.cluster for gram in library.grams)
        self.following = following
        self.gram_counts: Counter[str] = Counter()
        self.cluster_counts: Counter[tuple[str, str]] = Counter()
        self.function_counts: Counter[str] = Counter()
        self.continuations: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)
        self._longest = 0
        self._terms: dict[str, list[float]] = defaultdict(list)

    def observe(self, group: Group, marked: Sequence[PlanningTags], kept: bool) -> None:
        """Take in one scored group.

        Args:
            group: its completions have rewards and, if kept, advantages.
            marked: `PlanningMatcher.read` of each completion.
            kept: whether its advantages reach the model.

        Raises:
            ValueError: rewards or, of a kept group, advantages are missing, `marked` is not of these completions, or
                there are none.
        """
        lengths = [len(completion) for completion in group.completions]
        if not lengths or [len(mark.planning) for mark in marked] != lengths:
            trouble = "marked tokens are not of its completions" if lengths else "no completions"
            raise ValueError(f"group of problem {group.prompt.problem.id}: {trouble}")
        rewards = group.rewards()
        planning = torch.cat([mark.planning for mark in marked]).numpy()
        if kept:
            self._observe_credit(group, lengths, planning)
        self._observe_outcomes(group, rewards, lengths)
        self._observe_planning(marked, planning)
        self._observe_matches(group, marked, planning)

    def merge(self, others: Iterable[RolloutTelemetry]) -> RolloutTelemetry:
        """The telemetry of this and `others` together; all of one library."""
        merged = copy.deepcopy(self)
        for other in others:
            merged.gram_counts.update(other.gram_counts)
            merged.cluster_counts.update(other.cluster_counts)
            merged.function_counts.update(other.function_counts)
            merged.continuations.update(other.continuations)
            for name, total in other._sums.items():
                merged._add(name, total, other._weights[name])
            merged._longest = max(merged._longest, other._longest)
            for name, values in other._terms.items():
                merged._terms[name] += values
        return merged

    def result(self) -> dict[str, float]:
        """Metric name -> value, as `docs/reference/run_folder.md` lists them. A mean over nothing has no entry."""
        if not self._sums:
            return {}
        numbers = {name: self._sums[name] / self._weights[name] for name in self._sums}
        numbers["response/length_max"] = float(self._longest)
        for name, values in self._terms.items():
            numbers |= {f"reward/part_{name}_{what}": value for what, value in spread(values).items()}
        masses = [self._sums.get(f"advantage/{name}_mass", 0.0) for name in ("planning", "execution")]
        if sum(masses) > 0:
            numbers["advantage/planning_share"] = masses[0] / sum(masses)
        numbers["planning/grams_used"] = float(support(self.gram_counts))
        numbers["planning/semantic_entropy"] = semantic_entropy(self.gram_counts)
        numbers["planning/conditional_entropy"] = conditional_entropy(self.continuations)
        if self.clustered:
            numbers["planning/support_clusters"] = float(support(self.cluster_counts))
            numbers["planning/semantic_entropy_clusters"] = semantic_entropy(self.cluster_counts)
        if self.functions:
            numbers["planning/semantic_entropy_functions"] = semantic_entropy(self.function_counts)
        return numbers

    def _observe_outcomes(self, group: Group, rewards: list[float], lengths: list[int]) -> None:
        records = [c.reward for c in group.completions if c.reward is not None]  # all of them: rewards() has passed
        verdicts = [record.verdict for record in records]
        n, right = len(rewards), verdicts.count("right")
        self._add("reward/mean", sum(rewards), n)
        self._add("reward/group_std", float(np.std(rewards)), 1)
        self._add("accuracy/mean", right, n)
        for k in (2**power for power in range(n.bit_length())):
            self._add(f"accuracy/pass_at_{k}", pass_at_k(n, right, k), 1)
        self._add("accuracy/pass_at_n", right > 0, 1)
        self._add("group/all_right", right == n, 1)
        self._add("group/mixed", 0 < right < n, 1)
        self._add("group/all_wrong", right == 0, 1)
        self._add("response/length", sum(lengths), n)
        self._add("response/truncated", sum(c.finish_reason == "length" for c in group.completions), n)
        self._longest = max(self._longest, *lengths)
        for name in get_args(Verdict):
            self._add(f"verdict/{name}", verdicts.count(name), n)
        for record, length in zip(records, lengths, strict=True):
            self._add(f"response/length_{record.verdict}", length, 1)
            if record.verdict != "right":
                self._add("response/length_not_right", length, 1)
            for name, part in record.parts.items():
                self._add(f"reward/part_{name}", part, 1)
                if name not in SHARES:
                    self._terms[name].append(part)

    def _observe_planning(self, marked: Sequence[PlanningTags], planning: Mask) -> None:
        multiword = torch.cat([mark.multiword for mark in marked]).numpy()
        matches = [len(mark.matches) for mark in marked]
        self._add("planning/density", np.count_nonzero(planning), planning.size)
        self._add("planning/density_multiword", np.count_nonzero(multiword), planning.size)
        self._add("planning/responses_with_any", np.count_nonzero(matches), len(matches))  # a match marks a token
        self._add("planning/matches_per_response", sum(matches), len(matches))

    def _observe_matches(self, group: Group, marked: Sequence[PlanningTags], planning: Mask) -> None:
        covered = {function: np.zeros(planning.size, dtype=np.bool_) for function in self.functions}
        found, continuations, offset = [], [], 0
        for completion, mark in zip(group.completions, marked, strict=True):
            for match in mark.matches:
                gram, end = match.gram, match.end_token
                found.append(gram)
                continuations.append((gram.text, tuple(completion.ids[end : end + self.following])))
                if covered:
                    covered[gram.function][offset + match.start_token : offset + end] = True
            offset += len(completion)
        self.gram_counts.update([gram.text for gram in found])
        self.continuations.update(continuations)
        if self.clustered:
            self.cluster_counts.update([(gram.cluster, "" if gram.cluster else gram.text) for gram in found])
        if self.functions:
            self.function_counts.update([gram.function for gram in found])
        for function, tokens in covered.items():  # a token of nothing but white space inside a match does not plan
            self._add(f"planning/density_{function}", np.count_nonzero(tokens & planning), planning.size)

    def _observe_credit(self, group: Group, lengths: list[int], planning: Mask) -> None:
        credited = [(c.advantages, c.base_advantage) for c in group.completions]
        advantages = [advantage for advantage, _ in credited if advantage is not None]
        bases = [base for _, base in credited if base is not None]
        if not len(advantages) == len(bases) == len(lengths):
            raise ValueError(f"group of problem {group.prompt.problem.id}: kept, but without advantages")
        values = torch.cat(advantages).numpy()
        bonus = values - np.repeat(np.array(bases, dtype=np.float32), lengths)
        trained = np.repeat([not completion.masked for completion in group.completions], lengths)
        for name, bonus_name, chosen in (
            ("planning", "bonus", planning & trained),
            ("execution", "execution_bonus", ~planning & trained),
        ):
            tokens = int(np.count_nonzero(chosen))
            self._add(f"advantage/{name}_mean", values.sum(where=chosen, dtype=np.float64), tokens)
            self._add(f"advantage/{name}_mass", np.abs(values).sum(where=chosen, dtype=np.float64), tokens)
            self._add(f"advantage/{bonus_name}", bonus.sum(where=chosen, dtype=np.float64), tokens)

    def _add(self, name: str, total: SupportsFloat, weight: float) -> None:
        if weight:
            self._sums[name] += float(total)
            self._weights[name] += weight


def _counts(counts: Mapping[Any, int] | Iterable[int]) -> NDArray[np.float64]:
    values = np.array(list(counts.values() if isinstance(counts, Mapping) else counts), dtype=np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"counts must be finite and not negative, got {values.tolist()}")
    return values[values > 0]


def _perplexities(numbers: Mapping[str, float]) -> dict[str, float]:
    classes = [name for name in ("planning", "execution") if f"logprob/{name}" in numbers]
    return {f"perplexity/{name}": math.exp(-numbers[f"logprob/{name}"]) for name in classes}
