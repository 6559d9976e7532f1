"""Nonsense in a configuration file: one short line, quickly, whatever it is."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.cli import main
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError, brief, one_line
from mmhicra.core.yaml_text import read_yaml_text, write_yaml


def bomb(levels):
    """Ten aliases of ten aliases of ..."""
    lines = ["b0: &b0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"b{n}: &b{n} [{','.join([f'*b{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


NONSENSE = {
    "dates": ("seed: 2026-02-30", "seed is '2026-02-30': input should be a valid integer"),
    "dates with time": ("seed: 2026-02-28 25:61:61", "seed is '2026-02-28 25:61:61'"),
    "0b_": ("seed: 0b_", "seed is '0b_'"),
    "0x": ("seed: 0x", "seed is '0x'"),
    "octal": ("seed: 010", "seed is '010'"),
    "sexagesimal": ("seed: 1:30", "seed is '1:30'"),
    "long integer": ("seed: " + "9" * 5000, "has an integer of 5000 digits (line 1)"),
    "long hexadecimal integer": ("seed: 0x" + "f" * 5000, "has an integer of 5002 digits"),
    "float beyond float64": ("rollout: {temperature: 1e999}", "rollout.temperature is inf: input should be a finite"),
    "deep list": ("seed: " + "[" * 3000, "is nested more than 24 levels deep"),
    "deep mapping": ("seed: " + "{a: " * 3000, "is nested more than 24 levels deep"),
    "deep indentation": ("\n".join(" " * n + "a:" for n in range(400)), "is nested more than 24 levels deep"),
    "question marks": ("? " * 3000, "is nested more than 24 levels deep"),
    "alias bomb": (bomb(9), "has more than 5000 values"),
    "alias bomb in a list": ("data: {tasks: [&a [x,x], &b [*a,*a], *b]}", "configuration: data.tasks.0 is ['x', 'x']"),
    "alias of itself": ("seed: &a [*a]", "is nested more than 24 levels deep"),
    "long text often": (f"a: &a {'x' * 100_000}\nb: [*a, *a, *a]", "has more than 256 KiB"),
    "20 000 unknown keys": ("\n".join(f"k{n}: 1" for n in range(20_000)), "has more than 5000 values"),
    "huge list": ("seed: [" + "1," * 100_000 + "]", "has more than 5000 values"),
    "huge file": ("#" * 300_000, "has more than 256 KiB"),
    "long key": ("x" * 100_000 + ": 1", "is not YAML: mapping values are not allowed here"),
    "NUL": ("seed: 1\0", "is not YAML: unacceptable character #x0000"),
    "NUL in a path": ('run_folder: "a\\0b"', "run_folder: the text holds a NUL character"),
    "NUL in a library": ('hicra: {grams: "a\\0b"}', "hicra.grams: the text holds a NUL character"),
    "NUL in a list": ('rollout: {stop_tokens: ["a", "a\\0b"]}', "rollout.stop_tokens: the text holds a NUL"),
    "half a surrogate pair": ('run_folder: "\\ud800"', "run_folder: the text is not valid Unicode"),
    "tabs": ("data:\n\tsource: x", "is not YAML"),
    "empty": ("", "is empty: write fields into it, or {} for all defaults"),
    "only comments": ("# seed: 1\n", "is empty"),
    "two documents": ("seed: 1\n---\nseed: 2", "is not YAML: expected a single document"),
    "list": ("- 1", "must be a mapping of sections, got a list"),
    "text": ("train", "must be a mapping of sections, got a str"),
    "unclosed": ("a: [1", "is not YAML"),
    "key twice": ("seed: 1\nseed: 2", "has a key given twice: seed (line 2)"),
    "list as key": ("? [a]\n: 1", "has a key that is a list or a mapping (line 1)"),
    "number as key": ("7: 1", "7 is not a known field"),
    "null as key": ("~: 1", "None is not a known field"),
    "unknown alias": ("seed: *a", "is not YAML: found undefined alias"),
    "Python object": ("seed: !!python/object/apply:os.system [ls]", "has a tag that is not known here"),
    "timestamp by tag": ("seed: !!timestamp x", "has a tag that is not known here"),
    "binary by tag": ("seed: !!binary x", "has a tag that is not known here"),
    "set by tag": ("seed: !!set {a}", "has a tag that is not known here"),
    "no integer by tag": ("seed: !!int x", "has a tag that is not known here or does not fit"),
    "no boolean by tag": ("seed: !!bool x", "has a tag that is not known here or does not fit"),
    "merge of no mapping": ("<<: 7", "is not YAML: << takes a mapping"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_one_short_line(tmp_path, capsys, kind):
    text, said = NONSENSE[kind]
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    assert main(["train", "--config", str(path)]) == 2
    assert time.process_time() - start < 5  # aliases took minutes; it is 0.2 s
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("mmhicra: ")
    assert said in lines[0]
    assert len(lines) <= 3
    assert all(len(line) < 500 for line in lines)


def test_many_mistakes_are_counted(tmp_path):
    (tmp_path / "many.yaml").write_text("\n".join(f"k{n}: 1" for n in range(2000)))
    with pytest.raises(ConfigError) as refusal:
        load_config(tmp_path / "many.yaml")
    lines = str(refusal.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "configuration: 1990 more fields are wrong"
    assert all(len(line) < 200 for line in lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"seed: \xff\xfe", "is not UTF-8"), ("seed: 1".encode("utf-16"), "is not UTF-8"), (None, "Is a directory")],
)
def test_what_is_no_text_is_named(tmp_path, content, said):
    path = tmp_path / "config.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as refusal:
        load_config(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="256 KiB"):
        load_config("/dev/zero")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config("a\0b")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("", "write it as section.field=value"),
        ("=", "write it as section.field=value"),
        ("train.steps", "write it as section.field=value"),
        ("..=1", "write it as section.field=value"),
        (".".join("a" * 50_000) + "=1", "write it as section.field=value"),
        ("train.steps=[[[", "the value is not YAML"),
        ("train.steps=" + "[" * 3000, "the value is nested more than 24 levels deep"),
        ("train.steps=" + "9" * 5000, "the value has an integer of 5000 digits"),
        ("train.steps=0b_", "train.steps is '0b_'"),
        ("train.steps=", "train.steps is None"),
        ("train.steps=1\0", "the value is not YAML"),
        ("x" * 100_000 + "=1", "is not a known field"),
        ("run_folder=a\udcff", "the value is not YAML: unacceptable character"),
        ("train=5", "train is 5"),
    ],
)
def test_nonsense_on_the_command_line(override, said):
    with pytest.raises(ConfigError) as refusal:
        load_config(None, [override])
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1e-6, 1.5E+3, .5, 5., -1, +2, 1_000, 0xff, .inf]", [1e-6, 1500.0, 0.5, 5.0, -1, 2, 1000, 255, float("inf")]),
        ("[yes, Off, true, ~, null, '', 'no']", [True, False, True, None, None, "", "no"]),
        ("[2026-02-28, 010, 1:30, 0o17, =, <, 1e, e5]", ["2026-02-28", "010", "1:30", "0o17", "=", "<", "1e", "e5"]),
        ("[&a {x: 1}, {<<: *a, y: 2}, {<<: [{x: 3}, *a], z: 1}]", [{"x": 1}, {"x": 1, "y": 2}, {"x": 3, "z": 1}]),
    ],
)  # fmt: skip
def test_what_is_read(text, value):
    assert read_yaml_text(text) == value


def test_aliases_share_nothing():
    tree = read_yaml_text("a: &a {x: 1}\nb: *a")
    tree["a"]["x"] = 2
    assert tree["b"] == {"x": 1}


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=12)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner)))
def test_what_is_written_reads_back_equal(value):
    assert read_yaml_text(write_yaml(value)) == value


@given(
    st.sampled_from(["1e5", "010", "1:30", "yes", "~", "0x1f", "2026-02-28", "1_0", "<<", "=", ".nan", "-.INF", "5."])
)
def test_text_that_looks_like_something_else_stays_text(text):
    written = write_yaml({"run_folder": text})
    assert read_yaml_text(written) == {"run_folder": text}


def test_a_brief_value_is_brief():
    tree: list = []
    for _ in range(100_000):
        tree = [tree]
    for value in ("x" * 10**7, list(range(10**6)), {n: n for n in range(10**5)}, 10**100_000, tree, [10**5000], "a\nb"):
        assert len(brief(value)) <= 80
        assert "\n" not in brief(value)
    assert (brief({"x": 3}), brief("three")) == ("{'x': 3}", "'three'")
    assert one_line("a\n\tb\x1b[31m  c") == "a b [31m c"
    assert len(one_line("x" * 10**7)) <= 400
