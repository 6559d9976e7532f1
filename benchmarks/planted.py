"""Solutions with planted strategies: a corpus of which it is known what mining should find.

Content is phrases over a Zipfian vocabulary of made-up nouns among English function words: common phrases, and
phrases of the solution's own topic. Strategies are real English, each said in several ways, none of them in more than a
small share of the solutions: only together are they frequent, which is what Cluster DF looks for.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

STRATEGIES: dict[str, tuple[str, ...]] = {
    "check": ("let me double-check this result", "let me check the result again", "we should verify this result",
              "let us double-check the result", "let me verify the result again"),
    "cases": ("let us consider two cases", "we consider separate cases", "let us split into cases",
              "we can consider different cases", "let us consider each case separately"),
    "contradiction": ("suppose this is false", "assume for contradiction that", "suppose for contradiction that",
                      "we argue by contradiction", "let us assume for contradiction"),
    "backwards": ("let us work backwards from the end", "we can work backwards from", "working backwards from the goal",
                  "let us reason backwards from", "we reason backwards from the goal"),
    "another way": ("let's try a different approach", "let us try another approach", "maybe a different approach works",
                    "let's try another method instead", "we can try a different method"),
    "fact": ("we can use the fact that", "let us use the fact that", "we will use the fact that",
             "using the known fact that", "by the known fact that"),
    "doubt": ("wait, that doesn't seem right", "wait, this seems wrong", "hmm, that can't be right",
              "wait, that can't be right", "hmm, this doesn't seem right"),
    "reread": ("let me re-read the problem", "let me read the problem again", "going back to the problem",
               "let me go back to the problem", "the problem says again that"),
    "goal": ("our goal is to find", "the goal here is to find", "what we want to find is",
             "we are asked to find", "the question asks us to find"),
    "simplify": ("it is easier to first simplify", "let us first simplify this", "we can simplify this first",
                 "let us simplify the expression first", "it helps to simplify first"),
    "figure": ("looking at the figure again", "let me look at the figure", "from the figure we see that",
               "as the figure shows us", "looking closely at the figure"),
    "symmetry": ("by symmetry we may assume", "because of the symmetry here", "using symmetry we can assume",
                 "the symmetry tells us that", "by symmetry it follows that"),
    "plan": ("here is the plan", "let me make a plan", "the plan is as follows",
             "let us first plan the steps", "let me plan the steps"),
    "example": ("let us test a small example", "let us try a small case", "let me try a simple example",
                "testing a small example first", "let us look at a simple example"),
    "conclude": ("therefore we can conclude that", "from this we conclude that", "hence we may conclude that",
                 "this lets us conclude that", "we can therefore conclude that"),
}  # fmt: skip
"""15 strategies, five wordings each."""

DECOYS = ("i will simply guess the answer", "my random guess would be", "let me just pick one option")
"""Said in wrong solutions only."""

FUNCTION_WORDS = "the of a is to and in with for by at on from equals gives between over under".split()  # noqa: SIM905
SYLLABLES = "ba ce di fo gu ka le mi no pu ra se ti vo zu bran clet drim flon grus".split()  # noqa: SIM905


@dataclass(frozen=True)
class Content:
    """What solutions are made of beside strategies.

    Attributes:
        vocabulary: made-up nouns.
        phrases: common phrases; how frequent each is falls with its rank.
        flatness: the higher, the less the first of them stand out: p(rank) ~ 1 / (rank + flatness).
        topics: each with phrases of its own; a solution has one.
        topic_phrases: how many a topic has.
    """

    vocabulary: int = 20_000
    phrases: int = 15_000
    flatness: int = 200
    topics: int = 40
    topic_phrases: int = 10


def make_solutions(
    count: int,
    words: int,
    content: Content,
    *,
    seed: int = 0,
    strategies: int = 4,
    wrong: float = 0.2,
) -> Iterator[dict[str, Any]]:
    """Records with `question`, `response` and `correct`.

    Args:
        count: of the correct ones.
        words: of a response, about.
        content: what they are made of.
        seed: of everything.
        strategies: different ones in a correct solution; a wrong one has a decoy, and content.
        wrong: share of wrong ones among all.
    """
    rng = random.Random(seed)
    nouns = ["".join(rng.choices(SYLLABLES, k=rng.choice((2, 3)))) for _ in range(content.vocabulary)]
    draw = _zipf(rng, content.vocabulary, 10)
    bank = [_make_phrase(rng, nouns, draw) for _ in range(content.phrases)]
    draw_phrase = _zipf(rng, content.phrases, content.flatness)
    topics = [[_make_phrase(rng, nouns, draw) for _ in range(content.topic_phrases)] for _ in range(content.topics)]
    made = 0
    while made < count:
        correct = rng.random() >= wrong
        topic = rng.choice(topics)
        if correct:
            said = [rng.choice(STRATEGIES[name]) for name in rng.sample(sorted(STRATEGIES), strategies)]
        else:
            said = [rng.choice(DECOYS)]
        sentences = []
        length = 0
        while length < words:
            lead = said.pop() if said and rng.random() < 0.5 else ""
            phrases = [rng.choice(topic) if rng.random() < 0.3 else bank[draw_phrase()] for _ in range(2)]
            middle = rng.choice((" ", ", ", f" {rng.randrange(100)} ", f" $x_{{{rng.randrange(9)}}} = y + 1$ "))
            sentence = f"{lead} {middle.join(phrases)}".strip()
            length += len(sentence.split())
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}{rng.choice(('.', '.', ':', '!'))}")
        made += correct
        question = f"What is the {rng.choice(nouns)} of the {rng.choice(nouns)} number {made}?"
        yield {"question": question, "response": " ".join(sentences), "correct": correct}


def planted_grams(texts: Iterable[str], wordings: Sequence[str]) -> set[str]:
    """Those of the n-grams that lie inside one of the wordings."""
    inside = {
        " ".join(words[start:end]).rstrip(",")
        for words in map(str.split, wordings)
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    }
    return inside.intersection(texts)


def all_wordings() -> list[str]:
    """Of all strategies."""
    return [wording for wordings in STRATEGIES.values() for wording in wordings]


def _make_phrase(rng: random.Random, nouns: Sequence[str], draw: Any) -> str:
    """Nouns with one or two function words between them."""
    joints = (rng.sample(FUNCTION_WORDS, rng.choice((1, 1, 2))) for _ in range(2))
    words = [str(nouns[draw()])]
    for joint in joints:
        words += [*joint, nouns[draw()]]
    return " ".join(words)


def _zipf(rng: random.Random, count: int, flatness: int) -> Any:
    """A function that draws a rank below `count` with p(rank) ~ 1 / (rank + flatness)."""
    cumulative = list(accumulate(1 / (rank + flatness) for rank in range(1, count + 1)))
    return lambda: min(bisect(cumulative, rng.random() * cumulative[-1]), count - 1)
