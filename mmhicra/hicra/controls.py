"""The placebo: random n-grams that fire as often, on as many tokens, as the Strategic Grams they stand in for.

HICRA adds a constant positive bonus to whatever it marks (see docs/explanation/credit.md). If random phrases of the
same density do as well, it is the bonus that helped, not the planning. The paper's control does not say how
its n-grams were matched.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from mmhicra.core.errors import UserError
from mmhicra.hicra.grams import Gram, GramLibrary, fold, normalise
from mmhicra.hicra.planning import PlanningMatcher

LONGEST = 6
"""Words of the longest n-gram; the longest published gram has six."""
TOLERANCE = 0.05
"""Placebo and planning density differ by this share of the latter at most, if there are n-grams enough..."""
LIMIT = 0.25
"""...and by this share in any case."""
ADJUSTMENTS = 200
"""n-grams added or dropped one by one to reach the density."""
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Sample:
    """One response as placebo n-grams are drawn from it: `text` as `ids` write it."""

    ids: Sequence[int]
    text: str


def placebo_library(samples: Sequence[Sample], matcher: PlanningMatcher, tokenizer: Any, seed: int) -> GramLibrary:
    """Random n-grams of the execution text, matched to the grams that fire in it.

    For every Strategic Gram that occurs in the first half of the responses, an n-gram of as many words and nearly as
    many occurrences is drawn, none of which ever touches a planning token there. Then single n-grams are added or
    dropped until, in the second half, the share of marked tokens is within `TOLERANCE` of the planning density: in the
    half they were drawn from, n-grams that occur by chance would count too much.

    Args:
        samples: responses, those of one prompt together.
        matcher: of the real grams.
        tokenizer: the ids belong to.
        seed: another seed draws other n-grams.

    Returns:
        The library; its provenance states both densities, in the second half.

    Raises:
        UserError: no gram occurs, or the execution text cannot supply n-grams for the density.
    """
    rng = Random(f"placebo/{seed}")
    half = len(samples) // 2
    drawn, checked = samples[:half], samples[half:]
    fired, pool = _survey(drawn, matcher)
    wanted, total = _marked(checked, matcher), sum(len(sample.ids) for sample in checked)
    if not fired or not wanted:
        raise UserError(
            f"placebo: {len(samples)} responses hold too few grams of {matcher.gram_library.name}: use others"
        )
    library, marked = _adjust(_draw(fired, pool, rng), pool, checked, tokenizer, wanted, rng)
    provenance = {
        "what": f"random n-grams of execution text, as frequent and as dense as {matcher.gram_library.name}",
        "seed": seed,
        "responses": len(samples),
        "planning_density": wanted / total,
        "placebo_density": marked / total,
    }
    return GramLibrary(f"placebo-{seed}", library.grams, provenance)


def _survey(samples: Sequence[Sample], matcher: PlanningMatcher) -> tuple[Counter[Gram], dict[int, Counter[str]]]:
    """Grams that fire, and by length the n-grams that never touch one."""
    fired: Counter[Gram] = Counter()
    clear: dict[int, Counter[str]] = defaultdict(Counter)
    touching: set[str] = set()
    for sample in samples:
        matches = matcher.matches(sample.ids)
        fired.update(match.gram for match in matches)
        spans = [(match.start_char, match.end_char) for match in matches]
        for length, phrase, touches in _ngrams(sample.text, spans):
            if touches:
                touching.add(phrase)
            else:
                clear[length][phrase] += 1
    known = {normalise(gram.text) for gram in matcher.gram_library.grams}
    pool = {
        length: Counter({p: n for p, n in phrases.items() if p not in touching and p not in known and p.isprintable()})
        for length, phrases in clear.items()
    }
    return fired, pool


def _marked(samples: Sequence[Sample], matcher: PlanningMatcher) -> int:
    return sum(int(matcher.mask(sample.ids).sum()) for sample in samples)


def _ngrams(text: str, planning: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, bool]]:
    """(words, n-gram, whether a planning character is in it) of every run of up to `LONGEST` words."""
    words = [
        (match[0], any(match.start() < end and start < match.end() for start, end in planning))
        for match in _WORD.finditer(fold(text))
    ]
    for first in range(len(words)):
        for length in range(1, min(LONGEST, len(words) - first) + 1):
            window = words[first : first + length]
            yield length, " ".join(word for word, _ in window), any(touches for _, touches in window)


def _draw(fired: Counter[Gram], pool: dict[int, Counter[str]], rng: Random) -> list[str]:
    """For each gram, in a fixed order, the n-gram of its length nearest in frequency; ties at random."""
    chosen: list[str] = []
    taken: set[str] = set()
    for gram, count in sorted(fired.items(), key=lambda item: (-item[1], item[0].text)):
        candidates = [(abs(n - count), p) for p, n in pool.get(gram.words, Counter()).items() if p not in taken]
        if candidates:
            distance = min(candidates)[0]
            phrase = rng.choice(sorted(p for far, p in candidates if far == distance))
            chosen.append(phrase)
            taken.add(phrase)
    return chosen


def _adjust(
    chosen: list[str],
    pool: dict[int, Counter[str]],
    samples: Sequence[Sample],
    tokenizer: Any,
    wanted: int,
    rng: Random,
) -> tuple[GramLibrary, int]:
    """Add or drop the n-gram that fits the gap best until about `wanted` tokens are marked; returns the nearest."""
    words = {phrase: length * n for length, phrases in pool.items() for phrase, n in phrases.items()}
    tokens_per_word = sum(len(s.ids) for s in samples) / max(1, sum(len(_WORD.findall(s.text)) for s in samples))
    spare = sorted(words.keys() - set(chosen))
    rng.shuffle(spare)
    best: tuple[float, GramLibrary, int] | None = None
    for _ in range(ADJUSTMENTS):
        library = GramLibrary("placebo", tuple(map(Gram, chosen))) if chosen else None
        marked = _marked(samples, PlanningMatcher(library, tokenizer)) if library else 0
        gap = abs(wanted - marked)
        if library and (best is None or gap < best[0]):
            best = gap, library, marked
        source, target = (spare, chosen) if marked < wanted else (chosen, [])
        if gap <= TOLERANCE * wanted or not source:
            break
        fitting = min(source, key=lambda phrase: abs(words[phrase] - gap / tokens_per_word))
        source.remove(fitting)
        target.append(fitting)
    if best is None or best[0] > LIMIT * wanted:
        raise UserError(
            f"placebo: {len(samples)} responses hold too little execution text for {wanted} marked tokens: "
            "use more responses, or credit.method=uniform as the control"
        )
    return best[1], best[2]
