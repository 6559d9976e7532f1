"""Strategic Grams out of correct solutions (paper section 2.1): n-grams, embeddings, clusters, the top by Cluster DF.

What the paper leaves open is settled by `MiningOptions`, whose docstring says which value is the paper's.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import mmhicra
from mmhicra.core.errors import DataError, UserError
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.mining.clusters import NOISE, Algorithm, Cluster, cluster_vectors, find_clusters
from mmhicra.mining.embedding import Embedder
from mmhicra.mining.ngrams import NGrams, Progress, count_ngrams
from mmhicra.mining.solutions import Corpus

LIBRARIES = ("scikit-learn", "sentence-transformers", "transformers", "torch", "numpy")
"""Libraries whose versions are part of a mined library's provenance."""
EXAMPLES = 8
"""n-grams of a cluster in the table for people."""


@dataclass(frozen=True)
class MiningOptions:
    """How to mine. The paper states `min_words`, `max_words` and `top`; the rest is ours.

    Attributes:
        min_words: words of an n-gram at least (paper: 3).
        max_words: words of an n-gram at most (paper: 5).
        top: the share of clusters, by rank of Cluster DF, whose n-grams are Strategic Grams (paper: 0.2).
        min_df: solutions an n-gram must occur in; None is 3 or one in a thousand, whichever is more, and as many
            more as it takes to be left with `max_ngrams`.
        max_ngrams: how many n-grams to cluster at most, if `min_df` is None.
        max_df: the share of solutions an n-gram may occur in; None: any.
        max_repeats: how often an n-gram may occur, on average, in a solution that has it; None: any.
        algorithm: `ward`, `kmeans` or `hdbscan`, see `clusters.cluster_vectors`.
        cluster_size: n-grams of a cluster: the mean of Ward's method and k-means, the least of HDBSCAN.
        seed: of the clustering.
    """

    min_words: int = 3
    max_words: int = 5
    top: float = 0.2
    min_df: int | None = None
    max_ngrams: int = 100_000
    max_df: float | None = None
    max_repeats: float | None = None
    algorithm: Algorithm = "ward"
    cluster_size: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("min_words", self.min_words >= 1, "at least 1"),
            ("max_words", self.max_words >= self.min_words, f"at least min_words, {self.min_words}"),
            ("top", 0 < self.top <= 1, "above 0 and at most 1"),
            ("min_df", self.min_df is None or self.min_df >= 1, "at least 1"),
            ("max_ngrams", self.max_ngrams >= 1, "at least 1"),
            ("max_df", self.max_df is None or 0 < self.max_df <= 1, "above 0 and at most 1"),
            ("max_repeats", self.max_repeats is None or self.max_repeats >= 1, "at least 1"),
            ("cluster_size", self.cluster_size >= 2, "at least 2"),
        ):
            if not holds:
                raise UserError(f"mining option {name} = {getattr(self, name)}: it must be {rule}")


@dataclass(frozen=True, eq=False)
class Mined:
    """What mining found.

    Attributes:
        library: the Strategic Grams, each with its cluster, named after the cluster's most frequent n-gram.
        clusters: all clusters, the highest Cluster DF first.
        ngrams: what `Cluster.members` index.
        counts: how many n-grams and clusters there were at each stage.
        embedded: how many n-grams the embedder had to compute, the others came from its cache.
    """

    library: GramLibrary
    clusters: list[Cluster]
    ngrams: NGrams
    counts: dict[str, int]
    embedded: int


def mine(
    corpus: Corpus,
    options: MiningOptions,
    embedder: Embedder,
    *,
    name: str = "mined",
    progress: Progress = lambda phase, done, total: None,
) -> Mined:
    """Mine the Strategic Grams of a corpus.

    Raises:
        DataError: most texts are too short to be solutions, or no n-gram is frequent enough.
        UserError: HDBSCAN finds no cluster.
    """
    ngrams, counts = find_ngrams(corpus.texts, options, progress)
    vectors, embedded = embedder.embed(ngrams.texts, progress)
    progress("clustering", 0, 1)
    labels = cluster_vectors(vectors, options.algorithm, options.cluster_size, options.seed)
    clusters = find_clusters(labels, ngrams, options.top)
    progress("clustering", 1, 1)
    if not clusters:
        raise UserError(f"{options.algorithm} finds no cluster in {len(ngrams)} n-grams: use kmeans or a smaller size")
    selected = [cluster for cluster in clusters if cluster.selected]
    counts |= {
        "noise": int((labels == NOISE).sum()),
        "clusters": len(clusters),
        "clusters_selected": len(selected),
        "least_cluster_df_selected": selected[-1].df,
        "grams": sum(len(cluster.members) for cluster in selected),
    }
    grams = tuple(
        Gram(ngrams.texts[index], cluster=ngrams.texts[cluster.members[0]])
        for cluster in selected
        for index in cluster.members
    )
    library = GramLibrary(name, grams, _provenance(corpus, options, embedder, counts))
    return Mined(library, clusters, ngrams, counts, embedded)


def find_ngrams(
    solutions: Sequence[str],
    options: MiningOptions,
    progress: Progress = lambda phase, done, total: None,
) -> tuple[NGrams, dict[str, int]]:
    """The n-grams to cluster, and how many were left after each condition.

    Raises:
        DataError: most texts are too short to be solutions, or no n-gram is left.
    """
    least = options.min_df or max(3, math.ceil(len(solutions) / 1000))
    ngrams = count_ngrams(
        solutions, min_words=options.min_words, max_words=options.max_words, min_df=least, progress=progress
    )
    counts = {"frequent": len(ngrams)}
    if options.min_df is None and len(ngrams) > options.max_ngrams:
        least = int(np.sort(ngrams.df)[-options.max_ngrams - 1]) + 1
        ngrams = ngrams.keep(ngrams.df >= least)
    counts |= {"least_df": least, "within_max_ngrams": len(ngrams)}
    if options.max_df is not None:
        ngrams = ngrams.keep(ngrams.df <= options.max_df * ngrams.total)
        counts["within_max_df"] = len(ngrams)
    if options.max_repeats is not None:
        ngrams = ngrams.keep(ngrams.occurrences <= options.max_repeats * ngrams.df)
        counts["within_max_repeats"] = len(ngrams)
    counts["ngrams"] = len(ngrams)
    if not len(ngrams):
        conditions = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"no n-gram is left of {len(solutions)} solutions ({conditions}): give more solutions or a lower --min-df"
        )
    return ngrams, counts


def check_target(path: str | Path) -> None:
    """Refuse early what `save_mined` would have to refuse after all the work.

    Raises:
        UserError: the path does not end in `.json`, or its folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise UserError(f"{path}: a library is JSON: name it *.json by --out")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}: make it, or name another file by --out")


def save_mined(mined: Mined, path: str | Path) -> Path:
    """Write the library, and beside it as `.csv` the table of all clusters; returns the table's path.

    Raises:
        UserError: as of `check_target`, or the files cannot be written.
    """
    check_target(path)
    path = Path(path)
    table = path.with_suffix(".csv")
    try:
        mined.library.save(path)
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["cluster", "cluster_df", "share_of_solutions", "size", "selected", "examples"])
            writer.writerows(table_rows(mined))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): name another file by --out") from None
    return table


def table_rows(mined: Mined) -> list[list[str]]:
    """A row a cluster: name, Cluster DF, its share of solutions, size, selected or not, and examples with DF."""
    ngrams = mined.ngrams
    rows = []
    for cluster in mined.clusters:
        examples = "; ".join(f"{ngrams.texts[index]} ({ngrams.df[index]})" for index in cluster.members[:EXAMPLES])
        rows.append(
            [
                ngrams.texts[cluster.members[0]],
                str(cluster.df),
                f"{cluster.df / ngrams.total:.4f}",
                str(len(cluster.members)),
                "yes" if cluster.selected else "no",
                examples,
            ]
        )
    return rows


def _provenance(corpus: Corpus, options: MiningOptions, embedder: Embedder, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "method": "mmhicra mine: n-grams, sentence embeddings, clusters, top by Cluster DF (paper section 2.1)",
        "files": corpus.files,
        "text_field": corpus.text_field,
        "correct_field": corpus.correct_field,
        "solutions": corpus.counts,
        "options": asdict(options),
        "embedder": {"name": embedder.name, "sha256": embedder.identity},
        "ngrams": counts,
        "versions": {"mmhicra": mmhicra.__version__} | {library: version(library) for library in LIBRARIES},
    }
