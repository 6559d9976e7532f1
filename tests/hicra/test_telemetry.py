from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import combinations
from statistics import fmean, median, pstdev, quantiles

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmhicra.core.names import CreditMethod
from mmhicra.core.records import Completion, Group, Problem, Prompt, RewardRecord
from mmhicra.hicra.credit import assign_credit
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher, PlanningTags
from mmhicra.hicra.telemetry import (
    RolloutTelemetry,
    conditional_entropy,
    first_values,
    pass_at_k,
    relative,
    semantic_entropy,
    spread,
    support,
)

properties = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LIBRARY = GramLibrary(
    "clustered",
    (
        Gram("so", "deduction", "conclude"),
        Gram("so we can", "branching", "conclude"),
        Gram("we can use", "deduction", "apply"),
        Gram("wait, no", "backtracing"),
        Gram("let's check", "backtracing"),
        Gram("the plan is to", "framing", "plan"),
    ),
)
FUNCTIONS = ("backtracing", "branching", "deduction", "framing")
PIECES = [gram.text for gram in LIBRARY.grams] + ["So", "we  can\nuse", "Wait, no", "some", "x=3", "🙂", "7"]
responses = st.lists(st.sampled_from(PIECES), max_size=7).map(" ".join)
verdicts = st.sampled_from(["right", "right", "wrong", "no-answer"])
completions = st.tuples(responses, verdicts, st.booleans(), st.floats(0, 1))
steps = st.lists(st.tuples(st.lists(completions, min_size=1, max_size=5), st.booleans()), min_size=1, max_size=4)
counters = st.dictionaries(st.integers(0, 30), st.integers(0, 50))
PROMPT = Prompt(
    Problem("p1", "?", (), "1"), [1], torch.tensor([1]), torch.zeros(3, 1, dtype=torch.int64), torch.tensor([False])
)


def make_group(
    rows, tokenizer, method: CreditMethod = "hicra", alpha=0.25, library=LIBRARY
) -> tuple[Group, list[PlanningTags]]:
    """Rows of (response, verdict, truncated, format reward) -> a scored and credited group, and its planning."""
    group, matcher = Group(PROMPT, []), PlanningMatcher(library, tokenizer)
    for text, verdict, truncated, extra in rows:
        ids = tokenizer(text)["input_ids"]
        completion = Completion(ids, [-1.0] * len(ids), "length" if truncated else "stop", text)
        accuracy = float(verdict == "right")
        parts = {"accuracy": accuracy, "format": extra}
        completion.reward = RewardRecord(None, "none", "1", verdict, "", parts, accuracy + 0.1 * extra)
        group.completions.append(completion)
    marked = [matcher.read(completion.ids) for completion in group.completions]
    for completion, mark in zip(group.completions, marked, strict=True):
        completion.planning = mark.planning
    assign_credit(group, method, alpha)
    return group, marked


def make_step(rows, tokenizer, **options):
    return [(*make_group(group_rows, tokenizer, **options), kept) for group_rows, kept in rows]


def observe(step, library=LIBRARY, **options) -> RolloutTelemetry:
    telemetry = RolloutTelemetry(library, **options)
    for group, marked, kept in step:
        telemetry.observe(group, marked, kept)
    return telemetry


def bits(counts) -> float:
    total = sum(counts)
    return sum(-count / total * math.log2(count / total) for count in counts if count)


def naive(step, tokenizer, slow_mask) -> dict[str, float]:
    """Every number by loops over groups, completions and tokens; masks from the slow reference."""
    values: dict[str, list[float]] = {}

    def take(name, *items):
        values.setdefault(name, []).extend(float(item) for item in items)

    grams, continuations = [], {}
    for group, marked, kept in step:
        right = [c.reward.verdict == "right" for c in group.completions]
        take("reward/group_std", pstdev(group.rewards()))
        take("accuracy/pass_at_n", any(right))
        take("group/all_right", all(right))
        take("group/mixed", any(right) and not all(right))
        take("group/all_wrong", not any(right))
        for k in (k for k in (1, 2, 4) if k <= len(right)):
            take(f"accuracy/pass_at_{k}", fmean(any(chosen) for chosen in combinations(right, k)))
        for completion, mark in zip(group.completions, marked, strict=True):
            verdict, length = completion.reward.verdict, len(completion)
            take("accuracy/mean", verdict == "right")
            take("reward/mean", completion.reward.total)
            take("reward/part_accuracy", completion.reward.parts["accuracy"])
            take("reward/part_format", completion.reward.parts["format"])
            take("response/length", length)
            take("response/truncated", completion.finish_reason == "length")
            take(f"response/length_{verdict}", length)
            if verdict != "right":
                take("response/length_not_right", length)
            for name in ("right", "wrong", "no-answer", "gold-unusable"):
                take(f"verdict/{name}", verdict == name)
            planning = slow_mask(completion.ids, tokenizer, [gram.text for gram in LIBRARY.grams])
            take("planning/density", *planning)
            take("planning/responses_with_any", any(planning))
            several = [gram.text for gram in LIBRARY.grams if " " in gram.text]
            take("planning/density_multiword", *slow_mask(completion.ids, tokenizer, several))
            for function in FUNCTIONS:
                texts = [gram.text for gram in LIBRARY.grams if gram.function == function]
                take(f"planning/density_{function}", *slow_mask(completion.ids, tokenizer, texts))
            take("planning/matches_per_response", len(mark.matches))
            for match in mark.matches:
                grams.append(match.gram)
                following = continuations.setdefault(match.gram.text, [])
                following.append(tuple(completion.ids[match.end_token :][:3]))
            for plans, advantage in zip(planning, completion.advantages.tolist(), strict=True) if kept else ():
                name = "planning" if plans else "execution"
                take(f"advantage/{name}_mean", advantage)
                take(f"advantage/{name}_mass", abs(advantage))
                bonus = "advantage/bonus" if plans else "advantage/execution_bonus"
                take(bonus, advantage - completion.base_advantage)
    numbers = {name: fmean(items) for name, items in values.items() if items}
    numbers["response/length_max"] = max(len(c) for group, _, _ in step for c in group.completions)
    masses = [sum(values.get(f"advantage/{name}_mass", [])) for name in ("planning", "execution")]
    if sum(masses):
        numbers["advantage/planning_share"] = masses[0] / sum(masses)
    return numbers | naive_diversity(grams, continuations)


def naive_diversity(grams, continuations) -> dict[str, float]:
    """What tells how many and how different the matched `grams` are; `continuations` are the tokens after each."""
    clusters = Counter(gram.cluster or f"alone: {gram.text}" for gram in grams)
    return {
        "planning/grams_used": len(set(grams)),
        "planning/semantic_entropy": bits(Counter(grams).values()),
        "planning/support_clusters": len(clusters),
        "planning/semantic_entropy_clusters": bits(clusters.values()),
        "planning/semantic_entropy_functions": bits(Counter(gram.function for gram in grams).values()),
        "planning/conditional_entropy": sum(
            len(following) / len(grams) * bits(Counter(following).values()) for following in continuations.values()
        ),
    }


@properties
@given(steps, st.sampled_from(["grpo", "hicra"]))
@pytest.mark.slow
def test_every_number_is_the_naive_one(byte_tokenizer, slow_mask, rows, method):
    step = make_step(rows, byte_tokenizer, method=method)
    telemetry = observe(step)
    assert telemetry.result() == pytest.approx(naive(step, byte_tokenizer, slow_mask), rel=1e-6, abs=1e-6)
    assert telemetry.result() == telemetry.result()


@properties
@given(steps, st.integers(0, 4), st.integers(0, 4))
def test_ranks_together_see_what_one_rank_would(byte_tokenizer, rows, first, second):
    step = make_step(rows, byte_tokenizer)
    cuts = sorted((first, second))
    ranks = [observe(part) for part in (step[: cuts[0]], step[cuts[0] : cuts[1]], step[cuts[1] :])]
    before = ranks[0].result()
    merged = pickle.loads(pickle.dumps(ranks[0])).merge(pickle.loads(pickle.dumps(ranks[1:])))
    whole = observe(step)
    assert merged.result() == pytest.approx(whole.result(), rel=1e-12, abs=1e-12)
    assert merged.gram_counts == whole.gram_counts
    assert merged.continuations == whole.continuations
    assert ranks[0].merge(ranks[1:]).result() == merged.result()
    assert ranks[0].result() == before


@properties
@given(steps, st.floats(0.01, 0.9))
def test_hicra_shows_its_constant_positive_bonus_and_grpo_has_none(byte_tokenizer, rows, alpha):
    rows = [(group_rows, True) for group_rows, _ in rows]
    grpo = observe(make_step(rows, byte_tokenizer, method="grpo")).result()
    hicra = observe(make_step(rows, byte_tokenizer, alpha=alpha)).result()
    assert grpo.get("advantage/bonus", 0.0) == grpo.get("advantage/execution_bonus", 0.0) == 0.0
    assert hicra.get("advantage/execution_bonus", 0.0) == 0.0
    if "advantage/bonus" in hicra:
        assert hicra["advantage/bonus"] == pytest.approx(alpha * grpo["advantage/planning_mass"], rel=1e-4, abs=1e-7)
        rise = hicra["advantage/planning_mean"] - grpo["advantage/planning_mean"]
        assert rise == pytest.approx(hicra["advantage/bonus"], rel=1e-4, abs=1e-6)


def test_the_bonus_at_half_right_is_a_tenth_and_grpo_sums_to_zero(byte_tokenizer):
    rows = [("so 1", "right", False, 0.0), ("so 2", "wrong", False, 0.0)] * 2  # alpha * 2p(1-p), p = 0.5
    totals = {}
    for method in ("grpo", "hicra"):
        group, marked = make_group(rows, byte_tokenizer, method, alpha=0.2)
        numbers = observe([(group, marked, True)]).result()
        totals[method] = 2 * numbers["advantage/planning_mean"] + 2 * numbers["advantage/execution_mean"]
        assert numbers["advantage/bonus"] == pytest.approx({"grpo": 0.0, "hicra": 0.1}[method])
        assert sum(c.base_advantage for c in group.completions) == pytest.approx(0)
    assert totals == pytest.approx({"grpo": 0.0, "hicra": 0.2}, abs=1e-7)


def test_advantages_are_of_kept_groups_and_planning_is_of_all(byte_tokenizer):
    kept = make_group([("so 1", "right", False, 0.0), ("7", "wrong", False, 0.0)], byte_tokenizer)
    dropped = make_group([("wait, no", "right", False, 0.0)] * 2, byte_tokenizer)
    for completion in dropped[0].completions:
        completion.advantages = completion.base_advantage = None
    telemetry = observe([(*kept, True), (*dropped, False)])
    alone = observe([(*kept, True)]).result()
    numbers = telemetry.result()
    assert {k: v for k, v in numbers.items() if k.startswith("advantage/")} == {
        k: v for k, v in alone.items() if k.startswith("advantage/")
    }
    assert telemetry.gram_counts == {"so": 1, "wait, no": 2}
    assert numbers["planning/density"] == (2 + 7 + 7) / (4 + 1 + 8 + 8)


def test_responses_without_planning_have_zeros_and_no_planning_advantage(byte_tokenizer):
    group, marked = make_group([("7", "right", False, 0.0), ("", "no-answer", True, 0.0)], byte_tokenizer)
    numbers = observe([(group, marked, True)]).result()
    zeros = ("density", "density_multiword", "density_framing", "responses_with_any", "matches_per_response")
    zeros += ("grams_used", "semantic_entropy", "semantic_entropy_clusters", "support_clusters", "conditional_entropy")
    assert {numbers[f"planning/{name}"] for name in zeros} == {0.0}
    assert "advantage/planning_mean" not in numbers
    assert "advantage/bonus" not in numbers
    assert numbers["advantage/planning_share"] == 0
    assert numbers["response/length_no-answer"] == 0
    assert RolloutTelemetry(LIBRARY).result() == {}


def test_a_library_without_labels_has_neither_functions_nor_clusters(byte_tokenizer):
    library = GramLibrary("plain", (Gram("so"), Gram("let's check")))
    group, marked = make_group([("so let's check", "right", False, 0.0)], byte_tokenizer, library=library)
    numbers = observe([(group, marked, True)], library).result()
    assert not [name for name in numbers if "cluster" in name or "function" in name or "unlabelled" in name]
    assert numbers["planning/semantic_entropy"] == 1.0


def test_what_follows_a_gram_is_told_apart_up_to_the_window(byte_tokenizer):
    rows = [("so 1x", "right", False, 0.0), ("so 1y", "wrong", False, 0.0)]
    step = [(*make_group(rows, byte_tokenizer), True)]
    assert observe(step, following=2).result()["planning/conditional_entropy"] == 0.0
    assert observe(step, following=3).result()["planning/conditional_entropy"] == 1.0


@properties
@given(counters)
def test_semantic_entropy_is_shannons_and_within_its_bounds(counts):
    entropy, kinds = semantic_entropy(counts), support(counts)
    assert entropy == pytest.approx(bits(counts.values()), abs=1e-9)
    assert 0 <= entropy <= math.log2(max(kinds, 1)) + 1e-9
    assert kinds == len(+Counter(counts))
    assert semantic_entropy(counts, base=math.e) == pytest.approx(entropy * math.log(2))
    assert semantic_entropy(iter(counts.values())) == semantic_entropy(np.array(list(counts.values()))) == entropy


def test_semantic_entropy_of_alike_counts_is_the_logarithm_of_their_number():
    assert semantic_entropy([3] * 8) == pytest.approx(3.0)
    assert semantic_entropy([7]) == semantic_entropy([7, 0]) == semantic_entropy({}) == 0.0
    with pytest.raises(ValueError, match="negative"):
        semantic_entropy([2, -1])
    with pytest.raises(ValueError, match="base"):
        semantic_entropy([1, 1], base=1.0)


@properties
@given(st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 6)), st.integers(1, 20)))
def test_conditional_entropy_is_the_mean_over_grams(pairs):
    total = sum(pairs.values())
    expected = 0.0
    for gram in {gram for gram, _ in pairs}:
        following = [count for (other, _), count in pairs.items() if other == gram]
        expected += sum(following) / total * bits(following)
    assert conditional_entropy(pairs) == pytest.approx(expected, abs=1e-9)
    assert conditional_entropy(pairs) >= 0


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for c in range(n + 1):
        outcomes = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = [any(chosen) for chosen in combinations(outcomes, k)]
            assert pass_at_k(n, c, k) == sum(subsets) / len(subsets)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_outside_its_range_is_an_error(n, c, k):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, k)


def test_perplexities_and_their_ratios_to_the_start():
    start = {"logprob/planning": -1.0, "logprob/execution": -0.5, "entropy/planning": 2.0, "entropy/execution": 0.0}
    later = {"logprob/planning": -0.5, "logprob/execution": -0.5, "entropy/planning": 3.0, "entropy/execution": 1.0}
    first = first_values(start, {})
    assert relative(start, first)["perplexity/planning_relative"] == 1.0
    assert relative(later, first_values(later, first)) == pytest.approx(
        {
            "perplexity/planning": math.exp(0.5),
            "perplexity/execution": math.exp(0.5),
            "perplexity/planning_relative": math.exp(-0.5),
            "perplexity/execution_relative": 1.0,
            "entropy/planning_relative": 1.5,
        }
    )


def test_a_class_that_is_absent_at_first_starts_where_it_appears():
    first = first_values({"logprob/execution": -1.0}, {})
    assert "perplexity/planning" not in relative({"logprob/execution": -1.0}, first)
    first = first_values({"logprob/planning": -2.0}, first)
    first = first_values({"logprob/planning": -3.0, "logprob/execution": -3.0}, first)
    assert first == pytest.approx({"perplexity/execution": math.e, "perplexity/planning": math.e**2})


def test_groups_that_cannot_be_measured_are_errors_and_count_nothing(byte_tokenizer):
    group, marked = make_group([("so 1", "right", False, 0.0), ("7", "wrong", False, 0.0)], byte_tokenizer)
    telemetry = RolloutTelemetry(LIBRARY)
    for others in (marked[:1], marked[::-1]):
        with pytest.raises(ValueError, match="p1: marked tokens"):
            telemetry.observe(group, others, True)
    with pytest.raises(ValueError, match="p1: no completions"):
        telemetry.observe(Group(PROMPT, []), [], True)
    group.completions[1].advantages = None
    with pytest.raises(ValueError, match="p1: kept, but without advantages"):
        telemetry.observe(group, marked, True)
    group.completions[0].reward = None
    with pytest.raises(ValueError, match="p1: not every completion is scored"):
        telemetry.observe(group, marked, False)
    assert telemetry.result() == {}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.randoms())
def test_the_spread_of_a_term_is_that_of_the_textbook_in_any_order(values, order):
    shuffled = list(values)
    order.shuffle(shuffled)
    found = spread(values)
    first, _, third = quantiles(values, n=4, method="inclusive")
    wanted = {"min": min(values), "q25": first, "median": median(values), "q75": third, "max": max(values)}
    assert found == pytest.approx(wanted | {"std": pstdev(values)}, rel=1e-9, abs=1e-6)
    assert found == spread(shuffled)
