"""Fixed subsets: ids that are stored, drawn once by strata, so that numbers over a run or between people compare.

A subset is a JSON file `{"benchmark", "ids", ...}` or a file with an id a line. Those that ship lie in `eval/subsets`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmhicra.core.errors import ConfigError, DataError, UserError, one_line
from mmhicra.core.resources import evaluation_path
from mmhicra.evaluate.scoring.records import Item


def choose(items: Sequence[Item], subset: str, benchmark: str) -> list[Item]:
    """The items of a subset, in the order of `items`.

    Args:
        items: all questions.
        subset: the name of one that ships, or a file.
        benchmark: whose questions they are.

    Raises:
        ConfigError: there is no such subset, or it is another benchmark's.
        DataError: the questions lack some of its ids.
    """
    wanted = read_ids(subset, benchmark)
    chosen = [item for item in items if item.id in wanted]
    if len(chosen) < len(wanted):
        missing = sorted(wanted - {item.id for item in chosen})
        raise DataError(
            f"{benchmark}: {len(missing)} of the {len(wanted)} ids of subset {subset} are not among the questions, "
            f"e.g. {missing[0]}: is it of another split?"
        )
    return chosen


def read_ids(subset: str, benchmark: str) -> set[str]:
    """The ids of a subset. Arguments and errors as in `choose`."""
    path = Path(subset).expanduser()
    if not path.is_file():
        try:
            path = evaluation_path(f"subsets/{subset}.json")
        except UserError:
            raise ConfigError(f"subset {subset} is neither a file nor one that ships: see eval/subsets") from None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"subset {path} cannot be read ({one_line(str(error))}): write an id a line") from None
    if not text.lstrip().startswith("{"):
        return set(text.split())
    try:
        tree = json.loads(text)
        owner, ids = tree["benchmark"], {str(identity) for identity in tree["ids"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"subset {path}: not a subset ({one_line(repr(error), 160)}): write benchmark and ids, or an id a line"
        ) from None
    if owner != benchmark:
        raise ConfigError(f"subset {subset} is of {owner}, not of {benchmark}: name another")
    return ids


def stratify(items: Sequence[Item], by: Sequence[str], count: int, seed: int = 0) -> list[Item]:
    """`count` items in which every stratum has its share, to within one; in the order of `items`.

    Strata are the combinations of the groups `by`; shares are rounded by largest remainders, and within a stratum
    items are drawn by the SHA-256 of seed and id: the same from any order and on any machine.

    Raises:
        ConfigError: a group does not exist, or there are fewer items.
    """
    known = items[0].groups.keys() if items else ()
    if strange := [name for name in by if name not in known]:
        raise ConfigError(f"--by {strange[0]}: no such group, choose from {', '.join(known)}")
    if count > len(items):
        raise ConfigError(f"--count {count}: there are only {len(items)} questions")
    strata: defaultdict[tuple[tuple[str, ...], ...], list[Item]] = defaultdict(list)
    for item in items:
        strata[tuple(item.groups[name] for name in by)].append(item)
    exact = {stratum: count * len(members) / len(items) for stratum, members in strata.items()}
    sizes = {stratum: int(share) for stratum, share in exact.items()}
    by_remainder = sorted(strata, key=lambda stratum: (sizes[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: count - sum(sizes.values())]:
        sizes[stratum] += 1
    drawn = {
        item.id
        for stratum, members in strata.items()
        for item in sorted(members, key=lambda member: _lot(seed, member))[: sizes[stratum]]
    }
    return [item for item in items if item.id in drawn]


def write_subset(path: Path, benchmark: str, items: Sequence[Item], by: Sequence[str], seed: int, source: str) -> None:
    """Store a subset with how it was drawn.

    Raises:
        DataError: the file cannot be written.
    """
    tree = {"benchmark": benchmark, "count": len(items), "by": list(by), "seed": seed, "drawn_from": source}
    tree["ids"] = [item.id for item in items]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree, indent=None, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): name another with --out") from None


def _lot(seed: int, item: Item) -> str:
    return hashlib.sha256(f"{seed}\n{item.id}".encode()).hexdigest()
