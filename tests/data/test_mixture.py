"""Several sources: each has its share of the draw, exactly, its own settings, and its own held-out problems.

The fields are `data.sources`: source, weight, name, preset, columns, choice_answer, split, eval_source, eval_split,
held_out_share, image_folder, limit, instruction and reward; of columns: question, answer, images, choices, id, task,
kind, facts and unused.
"""

import json
import random
from pathlib import Path

import pytest

from mmhicra.config import RunConfig
from mmhicra.config.loading import build_config, dump_config, load_config
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.records import Completion, Group, Problem
from mmhicra.data.dataset import load_problems, refuse_without_images
from mmhicra.data.mixture import Mixture
from mmhicra.rewards.by_source import SourceRewarder, make_rewarder
from mmhicra.rewards.reward import Rewarder

ONE = {"source": "visual_math", "name": "one", "weight": 2}
OTHER = {"source": "visual_ledger", "name": "other"}


def config(*sources, **sections) -> RunConfig:
    data = sections.pop("data", {})
    return build_config({"data": {"sources": list(sources), **data}, **sections})


def problems(**counts: int) -> list[Problem]:
    return [Problem(f"{name}/{n}", "?", (), "1", dataset=name) for name, count in counts.items() for n in range(count)]


def names(taken: list[Problem]) -> list[str]:
    return [problem.dataset for problem in taken]


def test_shares_are_met_to_within_one_problem_after_every_draw():
    rng = random.Random(7)
    for _ in range(60):
        weights = {f"s{n}": rng.choice([1, 2, 3, 0.1, 0.7, 5, 10, 0.001]) for n in range(rng.randint(1, 7))}
        whole, given = sum(weights.values()), dict.fromkeys(weights, 0)
        mixture = Mixture(problems(**dict.fromkeys(weights, 2)), weights, 0)
        for number in range(1, 201):
            (name,) = names(mixture.take(1))
            given[name] += 1
            assert all(abs(number * weights[each] / whole - given[each]) < 1 for each in weights)


def test_the_order_of_sources_depends_on_the_weights_alone_and_that_within_a_source_on_the_seed():
    weights = {"a": 2, "b": 1}
    draws = [Mixture(problems(a=8, b=8), weights, seed).take(12) for seed in (0, 0, 1)]
    assert names(draws[0]) == names(draws[2]) == ["a", "b", "a"] * 4
    assert [p.id for p in draws[0]] == [p.id for p in draws[1]] != [p.id for p in draws[2]]
    plain = Mixture(problems(a=8, b=8), weights, 0, shuffle=False).take(6)
    assert [problem.id for problem in plain] == ["a/0", "b/0", "a/1", "a/2", "b/1", "a/3"]


@pytest.mark.parametrize("seed", range(4))
def test_a_restored_mixture_goes_on_as_if_it_had_never_stopped(seed):
    weights, known = {"a": 3, "b": 1, "c": 0.5}, problems(a=7, b=3, c=2)
    rng, through = random.Random(seed), Mixture(known, weights, seed)
    for _ in range(12):
        state = json.loads(json.dumps(through.state()))
        resumed = Mixture(known, weights, seed)
        resumed.restore(state)
        count, more = rng.randint(1, 6), rng.randint(0, 4)
        step = [through.take(count) + through.refill(more), resumed.take(count) + resumed.refill(more)]
        assert step[0] == step[1]
        assert len({problem.id for problem in step[0]}) == len(step[0])
        assert through.state() == resumed.state()


def test_a_source_that_has_given_a_step_all_catches_up_in_the_next():
    mixture = Mixture(problems(small=2, large=50), {"small": 1, "large": 1}, 0)
    first = names(mixture.take(4) + mixture.refill(4))
    assert first.count("small") == 2, "no problem twice in a step"
    assert names(mixture.take(2)) == ["small", "small"]
    whole = mixture.take(50) + mixture.refill(9)
    assert sorted(p.id for p in whole) == sorted(p.id for p in mixture.problems), "a step that asks for all gets all"


@pytest.mark.parametrize(
    ("weights", "known", "says"),
    [
        ({"a": 1, "b": 3}, {"a": 4, "b": 4}, r"data\.sources or their weights changed"),
        ({"a": 1}, {"a": 4}, r"data\.sources or their weights changed"),
        ({"b": 1, "a": 1}, {"a": 4, "b": 4}, r"data\.sources or their weights changed"),
        ({"a": 1, "b": 1}, {"a": 4, "b": 5}, "problems of the training data changed"),
    ],
)
def test_no_run_goes_on_with_another_mixture(weights, known, says):
    state = Mixture(problems(a=4, b=4), {"a": 1, "b": 1}, 0).state()
    with pytest.raises(DataError, match=says):
        Mixture(problems(**known), weights, 0).restore(state)


def write(folder: Path, name: str, rows: list[dict]) -> str:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / f"{name}.jsonl")


def test_each_source_is_read_in_its_own_way(tmp_path):
    geometry = [{"id": n, "problem": f"{n}?", "answer": str(n)} for n in range(8)]
    quiz = [{"q": f"{n}?", "gold": 1, "A": "2", "B": "1", "topic": "t", "w": n, "junk.png": "x"} for n in range(1, 9)]
    exam = [{"q": "exam?", "gold": 0, "A": "yes", "B": "no", "topic": "t", "w": 0, "junk.png": "x"}]
    columns = {"question": "q", "answer": "gold", "task": "topic", "facts": ["w"], "images": "none"}
    run = config(
        {"source": write(tmp_path, "geometry", geometry), "held_out_share": 0.5, "weight": 3, "limit": 7},
        {
            "source": write(tmp_path, "quiz", quiz),
            "name": "asked",
            "columns": columns,
            "choice_answer": "index",
            "eval_source": write(tmp_path, "exam", exam),
            "instruction": "One letter.",
        },
        data={"instruction": "In a box.", "columns": {"images": "none"}},
    )
    loaded = load_problems(run.data, 0, held_out=4)
    by_name = {name: [p for p in loaded.train if p.dataset == name] for name in ("geometry", "asked")}
    assert {problem.id.split("/")[0] for problem in by_name["geometry"]} == {"geometry"}
    asked = by_name["asked"]
    assert [(p.id, p.answer, p.task, p.facts) for p in asked[:2]] == [
        ("asked/quiz/1", "B", "t", {"w": 1}),
        ("asked/quiz/2", "B", "t", {"w": 2}),
    ]
    held_out = [(problem.dataset, problem.question.split("\n")[0]) for problem in loaded.held_out]
    assert held_out.count(("asked", "exam?")) == 1
    assert [name for name, _ in held_out].count("geometry") == 3
    assert len(by_name["geometry"]) + 3 <= 7
    assert loaded.preset == "geometry: geometry3k, asked: columns"
    assert {name: part.instruction for name, part in run.data.parts().items()} == {
        "geometry": "In a box.",
        "asked": "One letter.",
    }
    refuse_without_images(loaded, run.data)
    with pytest.raises(DataError, match="set columns.images of asked"):
        refuse_without_images(loaded, config(ONE | {"columns": {"images": "none"}}, OTHER | {"name": "asked"}).data)


def test_the_refused_rows_of_all_sources_are_listed_and_judged_source_by_source(tmp_path):
    good = [{"problem": f"{n}?", "answer": "1"} for n in range(30)]
    bad = [{"problem": "?", "answer": ""}, *good[:1]]
    run = config({"source": write(tmp_path, "good", good)}, {"source": write(tmp_path, "bad", bad)})
    with pytest.raises(DataError, match=r"bad\.jsonl: 1 of 2 rows \(50\.0%\) cannot be used"):
        load_problems(run.data, 0, refused_path=tmp_path / "refused.jsonl")
    (line,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "bad/bad/1"


def test_each_source_has_its_own_reward():
    run = config(
        ONE | {"reward": {"accuracy_weight": 3.0}},
        OTHER | {"reward": {"accuracy_weight": 0, "format_weight": 5}},
        reward={"format_weight": 0.5},
    )
    assert [(r.accuracy_weight, r.format_weight) for r in run.rewards().values()] == [(3.0, 0.5), (0.0, 5.0)]
    with make_rewarder(run.reward, run.rewards(), 100) as rewarder:
        asked = [Problem(name, "?", (), "7", "number", dataset=name) for name in ("one", "other", "")]
        texts = [r"\boxed{7}", r"\boxed{8}"]
        groups = [Group(_Prompt(p), [Completion([1], [0.0], "stop", text) for text in texts]) for p in asked]
        rewarder.score(groups)
        assert [group.rewards() for group in groups] == [[3.5, 0.5], [5.0, 5.0], [1.5, 0.5]]
        pairs = [(problem, group.completions[0]) for problem, group in zip(asked, groups, strict=True)]
        assert [record.total for record in rewarder.records(pairs)] == [3.5, 5.0, 1.5]
        assert all(own.verifier is rewarder.verifier for own in rewarder.rewarders.values())
        rewarder.verifier.lost += 2  # by the workers that all sources share
        assert [rewarder.take_losses()[0] for _ in range(2)] == [2, 0]


def test_all_that_a_rewarder_does_is_done_for_every_source():
    alike = {"score", "score_one"}  # made of the others
    own = {name for name in vars(Rewarder) if not name.startswith("_")} - alike
    assert own <= vars(SourceRewarder).keys()


class _Prompt:
    def __init__(self, problem):
        self.problem = problem


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"source": "a.jsonl", "sources": [ONE]}, r"source \(a\.jsonl\) and sources are both set: keep one"),
        ({"sources": [OTHER, ONE | {"name": "other"}]}, "has the name other twice"),
        ({"sources": [ONE, ONE | {"name": "b"}]}, "sources has visual_math twice"),
        ({"sources": [ONE | {"name": "a b"}]}, r"sources\.0\.name 'a b'"),
        ({"sources": [ONE], "eval_source": "b.jsonl"}, "set it, or eval_split, at each of data.sources"),
        ({"sources": [ONE | {"weight": 0}]}, r"data\.sources\.0\.weight is 0"),
        ({"sources": [ONE | {"reward": {"accuracy": 1}}]}, r"data\.sources: reward\.accuracy: "),
        ({"sources": [ONE | {"reward": {"workers": 1}}]}, "one: reward.workers is for the whole run"),
        ({"sources": [ONE | {"reward": {"accuracy_weight": 0}}]}, "the reward of data.sources one has no term"),
        ({"sources": [{"source": "a.jsonl"}], "tasks": ["count"]}, "tasks only applies to the sources"),
    ],
)
def test_contradictions_are_refused_at_load(tree, says):
    with pytest.raises(ConfigError, match=says):
        build_config({"data": tree})


def test_a_resolved_configuration_is_read_back_to_an_equal_one(tmp_path):
    run = config(ONE | {"reward": {"format_weight": 1.0}}, OTHER | {"columns": {"kind": "text"}})
    (tmp_path / "run.yaml").write_text(dump_config(run))
    assert load_config(tmp_path / "run.yaml") == run
