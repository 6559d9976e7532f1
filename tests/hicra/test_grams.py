from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import get_args

import pytest

from mmhicra.core.errors import UserError
from mmhicra.hicra.grams import SHIPPED_LIBRARIES, Gram, GramFunction, GramLibrary, fold, normalise

PUBLISHED = GramLibrary.load("published_249")
RELEASED = GramLibrary.load("released_193")
CHUNKS = GramLibrary.load("strategy_chunks")
SHIPPED = [GramLibrary.load(name) for name in SHIPPED_LIBRARIES]
MINE = GramLibrary("mine", (Gram("Só—“x”"), Gram("by cases", "branching", "case split")), {"by": ["hand"]})


def test_the_published_list_has_the_papers_counts():
    assert len(PUBLISHED) == 249
    assert Counter(gram.words for gram in PUBLISHED.grams) == {1: 19, 2: 45, 3: 76, 4: 85, 5: 18, 6: 6}


def test_the_released_list_is_the_published_one_less_57_and_one_more():
    published, released = ({gram.text for gram in library.grams} for library in (PUBLISHED, RELEASED))
    assert len(RELEASED) == 193
    assert len(published - released) == 57
    assert released - published == {"the problem states that"}
    assert {"hold on", "which means", "let's assume"} <= published - released


@pytest.mark.parametrize("library", [PUBLISHED, RELEASED], ids=lambda library: library.name)
def test_lists_from_the_paper_say_so(library):
    assert "2509.03646" in library.provenance["paper"]
    assert "listing" in library.provenance
    assert {gram.cluster for gram in library.grams} == {""}


def test_our_own_list_says_so_and_groups_several_phrases_of_2_to_6_words_by_action():
    assert "not mined" in CHUNKS.provenance["source"]
    assert "paper" not in CHUNKS.provenance
    clusters = Counter(gram.cluster for gram in CHUNKS.grams)
    assert CHUNKS.provenance["count_by_cluster"] == clusters
    assert min(clusters.values()) >= 3
    assert {"case split", "contradiction", "symmetry", "re-reading the figure", "backtracking"} < clusters.keys()
    assert all(2 <= gram.words <= 6 for gram in CHUNKS.grams)
    measured = CHUNKS.provenance["measured"]
    assert measured["grams_found"] + measured["grams_not_found"] == len(CHUNKS)


def test_shipped_lists_label_what_they_share_alike():
    labels = [{gram.text: gram.function for gram in library.grams} for library in SHIPPED]
    for one, other in combinations(labels, 2):
        shared = one.keys() & other.keys()
        assert shared
        assert {text: one[text] for text in shared} == {text: other[text] for text in shared}


@pytest.mark.parametrize("library", SHIPPED, ids=lambda library: library.name)
def test_shipped_data_counts_and_labels_every_entry(library):
    counts = Counter(str(gram.words) for gram in library.grams)
    assert library.provenance["count_by_words"] == counts
    assert library.provenance["count"] == len(library)
    assert {"licence", "labels"} <= library.provenance.keys()
    assert {gram.function for gram in library.grams} == set(get_args(GramFunction)) - {"unlabelled"}
    assert all(gram.text == normalise(gram.text) for gram in library.grams)


def test_folding_moves_no_character():
    text = "".join(map(chr, (c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)))
    assert len(fold(text)) == len(text)
    assert fold("LET’S “İ”") == 'let\'s "i"'


def test_normalise_joins_white_space():
    assert normalise(" Let\n\t me\u00a0  SEE ") == "let me see"


@pytest.mark.parametrize("library", [PUBLISHED, MINE])
def test_save_then_load_gives_the_same(library, tmp_path):
    library.save(tmp_path / "grams.json")
    loaded = GramLibrary.load(tmp_path / "grams.json")
    assert loaded == library
    assert loaded.provenance == library.provenance


def test_a_plain_json_list_and_a_text_file_load(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["so", "## step"]))
    (tmp_path / "a.txt").write_text("so\n\n  ## step \n")
    expected = (Gram("so", "unlabelled"), Gram("## step", "unlabelled"))
    assert GramLibrary.load(tmp_path / "a.json").grams == expected
    assert GramLibrary.load(str(tmp_path / "a.txt")).grams == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.txt", b"\n \n", "holds no gram"),
        ("object.txt", b'{"grams": ["so"]}', "looks like JSON, but its name does not end in .json: rename it"),
        ("list", b'\n["so", "but"]', "looks like JSON, but its name does not end in .json: rename it"),
        ("empty.json", b"[]", "holds no gram"),
        ("cut.json", b'["so", ', "not JSON"),
        ("metadata.json", b'{"strategic_grams": ["so"]}', 'a list "grams"'),
        ("number.json", b'["so", 3]', "entry 2 is neither"),
        ("function.json", b'{"grams": [{"text": "so", "function": "plan"}]}', "entry 1 has function 'plan'"),
        ("key.json", b'{"grams": [{"text": "so", "functoin": "framing"}]}', "entry 1 is neither"),
        ("cluster.json", b'["so", {"text": "but", "cluster": 7}]', "entry 2 has cluster 7: use a string"),
        (
            "spaced.json",
            b'[{"text": "so", "cluster": "turn "}]',
            r"entry 1 \('so'\) has cluster 'turn ': use a printable",
        ),
        ("lines.json", b'[{"text": "so", "cluster": "a\\nb"}]', "entry 1 .* has cluster"),
        ("name.json", b'{"name": 3, "grams": ["so"]}', '"name" must be a printable string'),
        ("twice.txt", "let's\nso\nLet’s".encode(), r"entry 3 \('Let’s'\) repeats entry 1"),
        ("named.json", b'{"name": "other", "grams": ["so", "So"]}', r"entry 2 \('So'\) repeats entry 1"),
        ("blank.json", b'["so", " "]', "entry 2 .* blank"),
        ("control.json", b'["so", "\\uffff"]', "entry 2 .* unprintable"),
        ("latin.txt", b"caf\xe9", "cannot be read"),
        ("folder", None, "cannot be read"),
        ("deep.json", b"[" * 100_000, "not JSON"),
        ("digits.json", b"[" + b"9" * 5000 + b"]", "not JSON"),
        (
            "long.json",
            b'[{"text": "so", "function": "' + b"x" * 5000 + b'"}]',
            r"entry 1 has function '.*\.\.\.: use one of",
        ),
        ("list.json", b'[{"text": "so", "function": ["framing"]}]', r"entry 1 has function \['framing'\]: use one of"),
        ("surrogate.json", b'["so", "\\ud800"]', "entry 2 .* unprintable"),
        ("surrogate_name.json", b'{"name": "\\ud800", "grams": ["so"]}', '"name" must be a printable string'),
        (
            "surrogate_provenance.json",
            b'{"provenance": {"by": "\\ud800"}, "grams": ["so"]}',
            "half of a surrogate pair",
        ),
        ("png.json", b"\x89PNG\r\n\x1a\n", "cannot be read"),
        ("png.txt", b"\x89PNG\r\n\x1a\n", "cannot be read"),
        ("missing.json", ..., "no such file.*published_249"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(name, content, complaint, tmp_path):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{complaint}") as refusal:
        GramLibrary.load(path)
    assert len(str(refusal.value)) < 500


def test_what_is_no_file_is_refused():
    for name in ("a\0b", "x" * 5000, "/dev/zero"):
        with pytest.raises(UserError, match="cannot be read"):
            GramLibrary.load(name)


def test_save_wants_a_name_that_load_reads_as_json(tmp_path):
    with pytest.raises(UserError, match=r"grams\.txt"):
        PUBLISHED.save(tmp_path / "grams.txt")


def test_merge_keeps_the_first_label():
    mine = GramLibrary("mine", (Gram("So", "backtracing", "turn"), Gram("eureka")))
    merged = mine.merge(PUBLISHED)
    assert len(merged) == 250
    assert merged.grams[0] == Gram("So", "backtracing", "turn")
    assert PUBLISHED.merge(mine).grams == (*PUBLISHED.grams, Gram("eureka"))
    assert merged.name == "mine+published_249"
    assert merged.provenance["published_249"] == PUBLISHED.provenance


def test_subset_by_words_and_function():
    assert len(PUBLISHED.subset(min_words=2)) == 249 - 19
    assert PUBLISHED.subset() is PUBLISHED
    verifying = PUBLISHED.subset(min_words=3, functions=["backtracing"])
    assert {gram.function for gram in verifying.grams} == {"backtracing"}
    assert min(gram.words for gram in verifying.grams) == 3
    assert verifying.name == "published_249[min_words=3,functions=backtracing]"
    with pytest.raises(UserError, match="min_words=9"):
        PUBLISHED.subset(min_words=9)


def test_the_hash_is_of_what_is_matched():
    shuffled = tuple(Gram(gram.text.upper(), cluster="all") for gram in reversed(PUBLISHED.grams))
    assert GramLibrary("other", shuffled).content_hash == PUBLISHED.content_hash
    assert replace(PUBLISHED, grams=PUBLISHED.grams[1:]).content_hash != PUBLISHED.content_hash
    assert RELEASED.content_hash != PUBLISHED.content_hash
