"""Clusters of n-grams of like meaning, Cluster Document Frequency, and the choice of clusters (paper section 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmhicra.mining.ngrams import NGrams

Algorithm = Literal["ward", "kmeans", "hdbscan"]
NOISE = -1
"""The label of n-grams that HDBSCAN leaves out of every cluster."""
HDBSCAN_DIMENSIONS = 16
"""Dimensions that HDBSCAN clusters in: its trees do not help in hundreds, where 100 000 n-grams take an hour."""
MINIBATCH_ABOVE = 20_000
"""n-grams from which k-means goes by batches: a full pass costs n * k, and k grows with n."""
WARD_PART = 5000
"""n-grams of a part, on average, that Ward's method takes together: its time and memory grow with their square."""


@dataclass(frozen=True)
class Cluster:
    """One cluster of n-grams.

    Attributes:
        members: indices of its n-grams, the most frequent first, ties in alphabetical order.
        df: Cluster DF: in how many distinct solutions at least one of its n-grams occurs.
        selected: whether its n-grams are Strategic Grams.
    """

    members: tuple[int, ...]
    df: int
    selected: bool


def cluster_vectors(vectors: NDArray[np.float32], algorithm: Algorithm, size: int, seed: int) -> NDArray[np.int64]:
    """A label for each of N vectors, (N,).

    Args:
        vectors: (N, D), of unit length, so that the order of distances is that of cosines.
        algorithm: `ward` (Ward's linkage, in parts of about `WARD_PART`) and `kmeans` put every n-gram somewhere,
            `hdbscan` labels what lies apart `NOISE`.
        size: the mean number of n-grams of a cluster, so there are N / size clusters; for HDBSCAN the least.
        seed: of the parts, of k-means' first centres, of the projection before HDBSCAN.
    """
    from threadpoolctl import threadpool_limits

    # Sums over threads depend on their order; that of two does not matter, so two threads are the most.
    with threadpool_limits(limits=2, user_api="openmp"):
        if algorithm == "hdbscan":
            return _hdbscan(vectors, size, seed)
        return _ward(vectors, size, seed) if algorithm == "ward" else _kmeans(vectors, size, seed)


def cluster_df(labels: NDArray[np.int64], ngrams: NGrams) -> NDArray[np.int64]:
    """Cluster DF of the clusters 0 to C - 1, (C,): distinct solutions with at least one n-gram of the cluster."""
    label = labels[ngrams.grams]
    pairs = np.unique((label * ngrams.total + ngrams.solutions)[label != NOISE])
    return np.bincount(pairs // max(ngrams.total, 1), minlength=int(labels.max(initial=NOISE)) + 1)


def select_clusters(df: NDArray[np.int64], top: float) -> NDArray[np.bool_]:
    """The `top` share of clusters by Cluster DF, (C,): by rank, rounded up; who ties with the last one in is in."""
    if not len(df):
        return np.zeros(0, dtype=np.bool_)
    rank = max(1, math.ceil(top * len(df) - 1e-9))
    return df >= np.sort(df)[-rank]


def find_clusters(labels: NDArray[np.int64], ngrams: NGrams, top: float) -> list[Cluster]:
    """All clusters, the highest Cluster DF first."""
    df = cluster_df(labels, ngrams)
    selected = select_clusters(df, top)
    members: list[list[int]] = [[] for _ in df]
    for index in sorted(range(len(ngrams)), key=lambda index: (-ngrams.df[index], ngrams.texts[index])):
        if labels[index] != NOISE:
            members[labels[index]].append(index)
    clusters = [Cluster(tuple(each), int(df[label]), bool(selected[label])) for label, each in enumerate(members)]
    return sorted(clusters, key=lambda cluster: (-cluster.df, ngrams.texts[cluster.members[0]]))


def _ward(vectors: NDArray[np.float32], size: int, seed: int) -> NDArray[np.int64]:
    """Bisecting k-means always halves the largest part, so that no part grows beyond what Ward's matrix can hold."""
    from sklearn.cluster import AgglomerativeClustering, BisectingKMeans

    parts = np.zeros(len(vectors), dtype=np.int64)
    if len(vectors) > WARD_PART:
        count = math.ceil(len(vectors) / WARD_PART)
        parts = BisectingKMeans(count, bisecting_strategy="largest_cluster", random_state=seed).fit_predict(vectors)
    labels = np.zeros(len(vectors), dtype=np.int64)
    used = 0
    for part in range(int(parts.max()) + 1):
        inside = np.flatnonzero(parts == part)
        k = max(1, round(len(inside) / size))
        if len(inside) > 1:
            labels[inside] = AgglomerativeClustering(k, linkage="ward").fit_predict(vectors[inside])
        labels[inside] += used
        used += k
    return labels


def _kmeans(vectors: NDArray[np.float32], size: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    k = max(1, round(len(vectors) / size))
    once: dict[str, Any] = {"n_init": 1}  # scikit-learn's default is a string, hence its inferred type
    if len(vectors) <= MINIBATCH_ABOVE:
        model = KMeans(k, random_state=seed, **once)
    else:  # k-means++ picks centres one by one, which for many thousands costs more than the clustering
        model = MiniBatchKMeans(k, init="random", batch_size=2 * k, max_iter=3, random_state=seed, **once)
    _, labels = np.unique(model.fit_predict(vectors), return_inverse=True)  # some centres may own nothing
    return labels.astype(np.int64)


def _hdbscan(vectors: NDArray[np.float32], size: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    if len(vectors) > max(size, HDBSCAN_DIMENSIONS):
        vectors = PCA(min(HDBSCAN_DIMENSIONS, vectors.shape[1]), random_state=seed).fit_transform(vectors)
    copied: dict[str, Any] = {"copy": True}
    labels = HDBSCAN(min_cluster_size=max(2, size), **copied).fit_predict(vectors)
    return np.maximum(labels, NOISE).astype(np.int64)
