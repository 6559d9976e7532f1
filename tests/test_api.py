"""The Python API: a configuration, rewards and callbacks as Python objects, training, evaluation, and the notebook."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import SHORT

import mmhicra
from mmhicra.cli import main
from mmhicra.config.loading import read_yaml
from mmhicra.core.errors import ConfigError

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tiny.ipynb"


class Steps:
    """Remembers the steps that it is told of, and the terms of the rewards."""

    def __init__(self):
        self.told, self.parts = [], set()

    def on_step_end(self, step, metrics, groups):
        self.told.append(step)
        self.parts |= {name for group in groups for each in group.completions for name in each.reward.parts}


def always_two(problem, completion, record):
    return 2.0


class AllAtOnce:
    """A reward of lists that remembers how long they were."""

    def __init__(self):
        self.lengths = []

    def __call__(self, problems, completions, records):
        self.lengths.append(len(completions))
        return [0.5] * len(problems)


async def waits(problem, completion, record):
    await asyncio.sleep(0)
    return 0.25


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with two rewards and a callback that are Python objects: folder, its options, the callback, the summary."""
    folder, steps = tmp_path_factory.mktemp("api") / "run", Steps()
    config = mmhicra.load_config("tiny", [*SHORT, f"run_folder={folder}", "train.steps=2", "eval.problems=0"])
    lists = AllAtOnce()
    rewards = [lambda problem, completion, record: 0.5, (always_two, 0.25), (lists, 0.5), (waits, 2.0)]
    options = {"rewards": rewards, "callbacks": [steps]}
    return folder, options, steps, mmhicra.train(config, **options, quiet=True)


def test_objects_take_part_in_a_run_and_are_named_in_its_folder(trained):
    folder, options, steps, summary = trained
    assert steps.told == [1, 2]
    own = ("trained.<locals>.<lambda>", "always_two", "AllAtOnce", "waits")
    names = [f"python:{__name__}.{name}" for name in own]
    assert steps.parts >= set(names)
    assert options["rewards"][2][0].lengths == [1, 16, 16], (
        "the first call before the run, then every completion of a step"
    )
    assert summary == json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    tree = read_yaml(folder / "config.yaml")
    assert tree["reward"]["custom"] == [
        {"path": path, "name": None, "weight": weight}
        for path, weight in zip(names, (1.0, 0.25, 0.5, 2.0), strict=True)
    ]
    assert tree["log"]["callbacks"] == [f"python:{__name__}.Steps"]


def test_a_run_with_objects_is_resumed_with_them_only(trained, tmp_path):
    folder, options, steps, _ = trained
    tree = mmhicra.load_config(folder / "config.yaml").model_dump()
    tree["reward"]["custom"], tree["log"]["callbacks"], tree["train"]["steps"] = [], [], 3
    with pytest.raises(ConfigError, match="cannot resume .* with another configuration: reward.custom was"):
        mmhicra.train(tree, resume=True, quiet=True)
    mmhicra.train(tree, **options, resume=True, quiet=True)
    assert steps.told == [1, 2, 3]


def test_a_command_cannot_resume_what_only_a_script_has(trained):
    code = "import sys; from mmhicra.cli import main; sys.exit(main(sys.argv[1:]))"
    resume = ["train", "--config", str(trained[0] / "config.yaml"), "--resume"]
    done = subprocess.run([sys.executable, "-c", code, *resume], capture_output=True, text=True)
    assert done.returncode == 2
    assert "was given to mmhicra as a Python object, which only the script that did so has" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rewards": [(always_two, "much")]}, "is no pair of a function and its weight"),
        ({"rewards": [3]}, "is not a function"),
        ({"rewards": [lambda completions: 0.0]}, "as TRL calls it"),
        ({"callbacks": [Steps]}, None),
        ({"callbacks": [print]}, "has none of the methods"),
    ],
)
def test_wrong_objects_are_refused_like_wrong_names(tmp_path, options, says):
    tree = {"run_folder": str(tmp_path / "run"), "data": {"count": 8}, "train": {"prompts_per_step": 4}}
    if says is None:  # a class is made; the run is refused for another reason, later
        tree["data"]["source"], says = "no_such_file.jsonl", "no_such_file.jsonl"
    with pytest.raises(mmhicra.core.errors.UserError, match=says):
        mmhicra.train(tree, **options, quiet=True)


def test_evaluate_gives_what_the_command_writes(tmp_path, capsys):
    rows = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "card.yaml").write_text("{name: sums, title: Sums}")
    card, rows = str(tmp_path / "card.yaml"), str(tmp_path / "rows.jsonl")
    results = mmhicra.evaluate(
        "tiny_vlm",
        benchmarks=[{"name": card, "source": rows}],
        overrides=["eval.max_new_tokens=8"],
        out=tmp_path / "api",
        quiet=True,
    )
    assert list(results) == ["sums.robust"]
    assert results["sums.robust"]["score"]["total"] == 3
    asked = ["--benchmarks", card, "--data", f"{card}={rows}", "--max-new-tokens", "8", "--out", str(tmp_path / "cli")]
    assert main(["eval", "--model", "tiny_vlm", *asked, "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)
    same = written.keys() - {"scored"}
    assert {name: written[name] for name in same} == {name: results["sums.robust"][name] for name in same}


@pytest.mark.parametrize(
    "order",
    [
        "from mmhicra import train, evaluate, load_config; import mmhicra.train.loop.stopping, mmhicra.evaluate.table",
        "import mmhicra.train.loop.stopping, mmhicra.evaluate.table; from mmhicra import train, evaluate, load_config",
    ],
    ids=["function first", "package first"],
)
def test_functions_and_packages_of_one_name_do_not_hide_each_other(order):
    code = (
        "import sys, mmhicra\n"
        f"{order}\n"
        "assert 'torch' not in sys.modules\n"
        "assert train is mmhicra.train and evaluate is mmhicra.evaluate\n"
        "assert mmhicra.train.loop.stopping.INTERRUPTED == 130\n"
        "for call in (train, mmhicra.train):\n"
        "    try:\n        call({'train': {'stepps': 3}})\n"
        "    except mmhicra.core.errors.ConfigError as error:\n        assert 'train.steps?' in str(error)\n"
        "    else:\n        sys.exit('no error')\n"
        "try:\n    evaluate('tiny_vlm', benchmarks=['mathvisa'])\n"
        "except mmhicra.core.errors.ConfigError as error:\n    assert 'mathvisa' in str(error)\n"
        "else:\n    sys.exit('no error')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_notebook_runs_and_shows_a_group(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] == [], "the notebook is kept without outputs"
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    said = capsys.readouterr().out
    assert [line[:6] for line in said.splitlines() if line.startswith("step ")] == [f"step {n}" for n in range(1, 5)]
    assert said.count("reward ") == 8
    assert "⟦" in said
