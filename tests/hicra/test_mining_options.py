"""Every option of mining arrives at the stage that it is for, and the defaults are the paper's where it states them."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from mmhicra.mining import clusters, mining
from mmhicra.mining.clusters import cluster_vectors, find_clusters
from mmhicra.mining.mining import MiningOptions, find_ngrams, mine
from mmhicra.mining.ngrams import NGrams, split_stretches
from mmhicra.mining.solutions import Corpus


def ngrams_of(count, df=None):
    """So many n-grams of a corpus of as many solutions, each in one of them if `df` does not say otherwise."""
    index = np.arange(count)
    df = np.ones(count, dtype=np.int64) if df is None else np.array(df)
    return NGrams([f"gram {n}" for n in range(count)], df, df, index, index, count)


class Words:
    """An embedder of one-hot vectors."""

    name, identity = "words", "0"

    def embed(self, texts, progress):
        return np.eye(len(texts), dtype=np.float32), len(texts)


def test_the_defaults_are_the_papers_n_and_share_and_ours():
    """Three to five words, and the top fifth of the clusters (section 2.1)."""
    assert asdict(MiningOptions()) == {
        "min_words": 3,
        "max_words": 5,
        "top": 0.2,
        "min_df": None,
        "max_ngrams": 100_000,
        "max_df": None,
        "max_repeats": None,
        "algorithm": "ward",
        "cluster_size": 6,
        "seed": 0,
    }


def test_every_option_arrives(monkeypatch):
    told = {}

    def count_ngrams(solutions, *, min_words, max_words, min_df, progress):
        told["ngrams"] = (min_words, max_words, min_df)
        return ngrams_of(12)

    def cluster(vectors, algorithm, size, seed):
        told["clusters"] = (len(vectors), algorithm, size, seed)
        return np.arange(12) // 3

    def find(labels, ngrams, top):
        told["top"] = top
        return find_clusters(labels, ngrams, top)

    monkeypatch.setattr(mining, "count_ngrams", count_ngrams)
    monkeypatch.setattr(mining, "cluster_vectors", cluster)
    monkeypatch.setattr(mining, "find_clusters", find)
    monkeypatch.setattr(mining, "LIBRARIES", ())
    options = MiningOptions(min_words=2, max_words=4, top=0.35, min_df=2, algorithm="kmeans", cluster_size=7, seed=11)
    corpus = Corpus(texts=["a"] * 12, text_field="text")
    mined = mine(corpus, options, Words())
    assert told == {"ngrams": (2, 4, 2), "clusters": (12, "kmeans", 7, 11), "top": 0.35}
    assert mined.library.provenance["options"] == asdict(options)
    assert mine(corpus, replace(options, seed=0), Words()).library.name == "mined"


@pytest.mark.parametrize(("solutions", "least"), [(10, 3), (3000, 3), (3001, 4), (40_000, 40)])
def test_an_ngram_must_be_in_three_solutions_or_one_in_a_thousand(monkeypatch, solutions, least):
    told = []
    monkeypatch.setattr(mining, "count_ngrams", lambda texts, **options: told.append(options["min_df"]) or ngrams_of(5))
    find_ngrams([""] * solutions, MiningOptions())
    find_ngrams([""] * solutions, MiningOptions(min_df=2))
    assert told == [least, 2]


def test_as_many_ngrams_as_are_allowed_the_most_frequent_ones(monkeypatch):
    df = [9, 4, 7, 4, 5, 6]
    monkeypatch.setattr(mining, "count_ngrams", lambda texts, **options: ngrams_of(6, df))
    kept = {most: find_ngrams([""], MiningOptions(max_ngrams=most))[0].df.tolist() for most in (6, 5, 4, 3, 1)}
    assert kept == {6: df, 5: [9, 7, 5, 6], 4: [9, 7, 5, 6], 3: [9, 7, 6], 1: [9]}
    repeats = [find_ngrams([""], MiningOptions(max_repeats=most))[0] for most in (1, 1.5)]
    assert [len(each) for each in repeats] == [6, 6], "each occurs once in every solution that has it"


@pytest.mark.parametrize("algorithm", ["ward", "kmeans"])
def test_clusters_have_the_mean_size_that_is_asked_for(algorithm):
    vectors = np.random.default_rng(0).normal(size=(65, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for size, count in ((3, 22), (4, 16), (10, 6)):  # 65 / size, rounded
        assert len(set(cluster_vectors(vectors, algorithm, size, seed=0))) == count


def test_parts_that_ward_sees_one_by_one_share_no_cluster(monkeypatch):
    monkeypatch.setattr(clusters, "WARD_PART", 20)
    centres = np.eye(8, dtype=np.float32).repeat(10, axis=0)
    vectors = centres + np.random.default_rng(0).normal(0, 0.01, centres.shape).astype(np.float32)
    labels = cluster_vectors(vectors, "ward", 10, seed=0).reshape(8, 10)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 8


def test_a_cluster_is_named_after_its_most_frequent_ngram():
    found = find_clusters(np.array([0, 0, 1, 1, 1]), ngrams_of(5, [2, 7, 4, 4, 1]), 1.0)
    assert sorted(cluster.members for cluster in found) == [(1, 0), (2, 3, 4)]


def test_names_of_points_end_a_stretch_and_longer_capitals_do_not():
    text = "so angle AB is right but ABC is not and ABCD is round while OCEAN is a word and I am a one"
    found = [" ".join(stretch) for stretch in split_stretches(text)]
    assert found == ["so angle", "is right but", "is not and", "is round while ocean is a word and i am a one"]
