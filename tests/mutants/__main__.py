"""`make mutants`: plant every mistake of the list, one at a time, and see whether a test notices.

Exit status 1 if the list has rotted, if a test fails without a mistake, or if fewer than 95 % are noticed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from mutants import AREAS, REPOSITORY, Mutant, load_mutants
from workshop import SURVIVED, Workshop, warm_up

LEAST = 0.95


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__)
    parser.add_argument("--only", metavar="AREA", help="mutants of one area")
    parser.add_argument("--areas", metavar="FOLDER", type=Path, default=AREAS, help="of other lists")
    parser.add_argument("--sample", type=int, metavar="N", help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--part", metavar="I/N", default="0/1", help="every N-th from the I-th on, for parallel work")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a mistake first")
    options = parser.parse_args(arguments)
    try:
        mutants = chosen(options)
        for mutant in mutants:
            mutant.plant((REPOSITORY / mutant.file).read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mmhicra_mutants_") as folder:
        workshop = Workshop(Path(folder))
        if not options.trust and not healthy(workshop, mutants):
            return 1
        return judge(workshop, mutants)


def chosen(options: argparse.Namespace) -> list[Mutant]:
    """The mutants that the command line asks for."""
    mutants = load_mutants(options.only, options.areas)
    first, step = map(int, options.part.split("/"))
    mutants = mutants[first::step]
    return mutants if options.sample is None else random.Random(options.seed).sample(mutants, options.sample)


def healthy(workshop: Workshop, mutants: list[Mutant]) -> bool:
    """Whether the tests pass as long as there is no mistake."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    verdict = workshop.run(tests, time_limit=3600)
    print(f"without a mistake: {verdict.state} ({verdict.seconds:.0f} s)", flush=True)
    if verdict.state != SURVIVED:
        print(verdict.output)
    return verdict.state == SURVIVED


def judge(workshop: Workshop, mutants: list[Mutant]) -> int:
    """Try every mutant; prints a line for each and the score of each area."""
    noticed: dict[str, list[bool]] = defaultdict(list)
    for number, mutant in enumerate(mutants, start=1):
        verdict = workshop.judge(mutant)
        noticed[mutant.area].append(verdict.noticed)
        print(f"{number}/{len(mutants)} {verdict.state} ({verdict.seconds:.0f} s) {mutant.title}", flush=True)
        if not verdict.noticed:
            print(f"    {mutant.why}; tests: {' '.join(mutant.tests)}\n{verdict.output[-600:]}", flush=True)
    for area, found in noticed.items():
        print(f"{area:24} {sum(found):3} of {len(found):3}")
    every = [one for found in noticed.values() for one in found]
    share = sum(every) / len(every)
    print(f"{sum(every)} of {len(every)} noticed: {share:.1%}")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
