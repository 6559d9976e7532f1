r"""How many verdicts a processor second gives, and what hostile answers cost a batch.

All queries are made up and distinct, half of the answers are right. Hostile answers are what degenerating policies
write: towers of powers, factorials, large powers of sums, sums and integrals that nobody worked out.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.spread import refuse_none, shown_range, spread
from mmhicra.rewards.verify import Query, decide, verify
from mmhicra.rewards.workers import Verifier

EASY = 5000
"""Queries of numbers and of choices, each."""
WORKERS = 2
HOSTILE = (
    "{n}^{{9^{{9^{{9}}}}}}",
    "10^{{10^{{{n}}}}}",
    "{n}000000!",
    "(((1{n}!)!)!)!",
    r"\binom{{10^6+{n}}}{{5 \cdot 10^5}}",
    r"\sum_{{k=1}}^{{10^{{9}}}} k^{{{n}}}",
    r"\prod_{{k=1}}^{{10^6}} (k+{n})",
    r"\int_0^1 e^{{e^{{e^{{{n}x}}}}}}\,dx",
    r"\lim_{{x \to 0}}\frac{{\sin^{{{n}}} x}}{{x^{{51}}}}",
    r"\gcd(2^{{99999}}-{n}, 2^{{99998}}-1)",
    "x^{{x^{{x^{{x+{n}}}}}}}",
    "(x+y+{n}z)^{{300}}",
    r"\sin^{{1000}}({n}x)",
    "(x+{n})^{{10000}}",
    "2^{{-{n} \\cdot 10^9}}",
    "\\{{" + ", ".join(f"x^{{{{{power}}}}}" for power in range(40)) + ", {n}\\}}",
)


def run_rewards(pairs: int = 5, algebra: int = 200, batch: int = 512, hostile: int = 64) -> dict[str, Any]:
    """Measure verdicts a processor second, and a batch with and without hostile answers.

    Args:
        pairs: how often everything is measured.
        algebra: queries that take algebra, decided in this process as a worker decides them.
        batch: answers of the batch, for two workers with the default limit.
        hostile: how many of them are hostile in the other batch.

    Returns:
        Verdicts a processor second for `numbers`, `choices` and `algebra`; `hostile`: how many times the processor
        seconds of the batch without them, starts of workers in both taken off.

    Raises:
        UserError: nothing would be measured.
    """
    refuse_none("rewards", min(pairs, algebra, batch - hostile))
    for query in algebra_queries(random.Random(0), 4):
        verify(query.extracted, query.gold, query.kind, query.choices)  # imports sympy
    rates: dict[str, list[float]] = {"numbers": [], "choices": [], "algebra": []}
    ratios = []
    for number in range(pairs):
        rng = random.Random(number + 1)
        rates["numbers"].append(_rate(number_queries(rng, EASY), decide))
        rates["choices"].append(_rate(choice_queries(rng, EASY), decide))
        hard = algebra_queries(rng, algebra)
        rates["algebra"].append(_rate(hard, lambda q: verify(q.extracted, q.gold, q.kind, q.choices)))
        honest = algebra_queries(rng, batch)
        mixed = [*honest[hostile:], *hostile_queries(honest[:hostile])]
        rng.shuffle(mixed)
        start = _seconds(honest[:1])
        ratios.append((_seconds(mixed) - start) / (_seconds(honest) - start))
    return {
        "bench": "rewards",
        "verdicts_per_second": {name: spread(found) for name, found in rates.items()},
        "hostile": spread(ratios),
        "queries": {"numbers": EASY, "choices": EASY, "algebra": algebra, "batch": batch, "hostile": hostile},
        "pairs": pairs,
        "machine": machine(),
    }


def print_rewards(result: dict[str, Any]) -> None:
    """One table."""
    queries, hostile = result["queries"], result["hostile"]
    table = Table("answers", "verdicts a processor second", title=f"reward, median of {result['pairs']}")
    for name, rate in result["verdicts_per_second"].items():
        table.add_row(name, f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})")
    console = Console()
    console.print(table)
    console.print(
        f"a batch of {queries['batch']} with {queries['hostile']} hostile answers: {hostile['median']:.2f} times the "
        f"processor seconds of one without ({shown_range(hostile)})"
    )


def number_queries(rng: random.Random, count: int) -> list[Query]:
    """Decimals, fractions and integers with units."""
    forms = ("{n}", "{n}.0", r"\frac{{{n}}}{{1}}", r"{n} \text{{ cm}}", "x = {n}")
    return [
        Query(rng.choice(forms).format(n=at + rng.randint(0, 1)), str(at), "number", ()) for at in range(1, count + 1)
    ]


def choice_queries(rng: random.Random, count: int) -> list[Query]:
    """Letters, and the texts of options."""
    queries = []
    for at in range(count):
        choices = tuple(f"{at + step} cm" for step in range(4))
        answer = rng.choice([rng.choice("ABCD"), rng.choice(choices), f"({rng.choice('ABCD')})"])
        queries.append(Query(answer, rng.choice("ABCD"), "choice", choices))
    return queries


def algebra_queries(rng: random.Random, count: int) -> list[Query]:
    """Expressions, pairs, lines and unions of intervals, as many of each."""
    return [_ALGEBRA[at % len(_ALGEBRA)](rng, at + 1, rng.random() < 0.5) for at in range(count)]


def hostile_queries(honest: Sequence[Query]) -> list[Query]:
    """The same golds, with hostile answers."""
    return [Query(HOSTILE[at % len(HOSTILE)].format(n=at + 2), query.gold) for at, query in enumerate(honest)]


def _expression(rng: random.Random, at: int, right: bool) -> Query:
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return Query(rf"\frac{{x}}{{{b}}} + \frac{{{a + at * b + (not right)}}}{{{b}}}", rf"\frac{{x+{a}}}{{{b}}}+{at}")


def _product(rng: random.Random, at: int, right: bool) -> Query:
    a = rng.randint(2, 99)
    return Query(rf"(x + {a})(x + {at + (not right)})", rf"x^2 + {a + at}x + {a * at}")


def _pair(rng: random.Random, at: int, right: bool) -> Query:
    a = rng.randint(2, 99)
    return Query(rf"({at}, \pi/{a + (not right)})", rf"\left({at}, \frac{{\pi}}{{{a}}}\right)")


def _line(rng: random.Random, at: int, right: bool) -> Query:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return Query(rf"{a}x + {b}y = {at + (not right)}", rf"y = -\frac{{{a}}}{{{b}}}x + \frac{{{at}}}{{{b}}}")


def _union(rng: random.Random, at: int, right: bool) -> Query:
    a = at + rng.randint(1, 99)
    return Query(rf"(-\infty, -{at}] \cup [{a + (not right)}, \infty)", rf"(-\infty,-{at}]\cup[{a},+\infty)")


_ALGEBRA: tuple[Callable[[random.Random, int, bool], Query], ...] = (_expression, _product, _pair, _line, _union)


def _rate(queries: Sequence[Query], judge: Callable[[Query], Any]) -> float:
    start = time.process_time()
    for query in queries:
        judge(query)
    return len(queries) / (time.process_time() - start)


def _seconds(queries: Sequence[Query]) -> float:
    """Processor seconds of this process and of all workers, from their start to their end."""
    start = _used()
    with Verifier(WORKERS) as verifier:
        verifier.verify_all(queries)
    return _used() - start


def _used() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
