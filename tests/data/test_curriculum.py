"""Which problems an epoch leaves out: against a plain reading of all that was observed, and resumed to the bit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.config import CurriculumConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Problem
from mmhicra.data.curriculum import Curriculum
from mmhicra.data.stream import ProblemStream
from mmhicra.train.loop.problems import make_stream

PROBLEMS = [Problem(f"p{n}", f"{n}?", (), str(n)) for n in range(7)]
IDS = [problem.id for problem in PROBLEMS]
OPTIONS = st.builds(
    CurriculumConfig,
    easy_threshold=st.sampled_from([None, 0.75, 1.0]),
    hard_threshold=st.sampled_from([0.0, 0.5]),
    visits=st.integers(1, 3),
    skip_epochs=st.integers(1, 3),
)
SUCCESS = st.sampled_from([0.0, 0.5, 0.75, 1.0])


def stream_of(options, seed=0, least=1):
    return ProblemStream(PROBLEMS, seed, curriculum=Curriculum(options, IDS, least))


def ids(problems):
    return [problem.id for problem in problems]


def plain_left_out(options, log, epoch):
    """Ids that `epoch` leaves out, from the whole log of (epoch, id, success): the ten-line reference."""
    left_out = set()
    for name in IDS:
        visits, again = [], 0
        for when, success in [(e, s) for e, seen, s in log if seen == name and e < epoch]:
            visits = [*visits, success][-options.visits :]
            easy = options.easy_threshold is not None and all(s >= options.easy_threshold for s in visits)
            if len(visits) == options.visits and (easy or all(s <= options.hard_threshold for s in visits)):
                visits, again = [], when + 1 + options.skip_epochs
        if again > epoch:
            left_out.add(name)
    return left_out


@given(OPTIONS, st.data())
def test_an_epoch_leaves_out_what_the_visits_before_it_say(options, data):
    """Problem p0 is in between whatever happens, so that no epoch is empty."""
    stream, plain, log = stream_of(options), ProblemStream(PROBLEMS, 0), []
    for epoch in range(8):
        wanted = plain_left_out(options, log, epoch)
        order = [name for name in ids(plain.take(7)) if name not in wanted]
        taken = [name for _ in order for name in ids(stream.take(1))]
        assert (stream.epoch, taken) == (epoch, order)
        assert {each.id for each in stream.left_out} == wanted
        success = {name: 0.6 if name == "p0" else data.draw(SUCCESS) for name in taken}
        stream.observe(success)
        log += [(epoch, name, value) for name, value in success.items()]


STEPS = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), max_size=12)


@given(OPTIONS, STEPS, st.integers(0, 3), st.data())
def test_a_resumed_curriculum_goes_on_the_same_and_no_step_lacks_problems(options, steps, seed, data):
    """A step is a `take` and its refills; at least three problems are left, and none comes twice in so small a step."""
    stream = stream_of(options, seed, least=3)
    for first, *refills in steps:
        resumed = stream_of(options, seed, least=3)
        resumed.restore(json.loads(json.dumps(stream.state())))
        step, again = (
            [ids(each.take(first)), *(ids(each.refill(count)) for count in refills)] for each in (stream, resumed)
        )
        assert step == again
        assert len(step[0]) == first
        had = [name for part in step for name in part]
        assert len(set(had)) == len(had) or first > 3
        success = {name: data.draw(SUCCESS) for name in sorted(set(had))}
        stream.observe(success)
        resumed.observe(dict(reversed(success.items())))  # as the ranks come
        assert json.dumps(stream.state()) == json.dumps(resumed.state())
        assert len(IDS) - len(stream.left_out) >= 3


def test_a_set_that_would_be_too_small_is_drawn_whole_again():
    stream = stream_of(CurriculumConfig(visits=1, skip_epochs=3), least=3)
    stream.take(7)
    stream.observe({name: 1.0 if name < "p4" else 0.5 for name in IDS})
    assert set(ids(stream.take(3))) == {"p4", "p5", "p6"}
    assert ([each.why for each in stream.left_out], stream.lifted) == (["easy"] * 4, False)
    stream.observe({"p4": 0.0})
    assert set(ids(stream.take(7))) == set(IDS)
    assert (stream.left_out, stream.lifted, stream.epoch) == ([], True, 2)


def test_every_source_has_a_curriculum_of_its_own():
    """Two of source `a` to one of `b`; of each the problems 0 and 1 are always solved, and rest every other epoch."""
    config = build_config(
        {
            "data": {
                "sources": [{"source": "a.jsonl", "weight": 2}, {"source": "b.jsonl"}],
                "curriculum": {"visits": 1, "skip_epochs": 1},
            },
            "train": {"prompts_per_step": 3},
        }
    )
    problems = [Problem(f"{name}/{n}", "?", (), "1", dataset=name) for name in "ab" for n in range(6)]
    mixture, taken, left_out = make_stream(config, problems), [], []
    for _ in range(12):
        resumed = make_stream(config, problems)
        resumed.restore(json.loads(json.dumps(mixture.state())))
        step = ids(mixture.take(3))
        assert step == ids(resumed.take(3))
        assert [name[0] for name in step].count("a") == 2
        left_out.append(sorted(each.id for each in mixture.left_out))
        mixture.observe({name: 1.0 if name[-1] in "01" else 0.5 for name in step})
        taken += step
    drawn = [name for name in taken if name[0] == "a"][:20]
    assert [drawn.count(f"a/{n}") for n in range(6)] == [2, 2, 4, 4, 4, 4], "epochs of 6, 4, 6 and 4"
    assert (left_out[0], left_out[3], left_out[6]) == ([], ["a/0", "a/1"], ["b/0", "b/1"])


def test_a_curriculum_that_cannot_work_is_refused():
    for section, said in (
        ({"data": {"curriculum": {"easy_threshold": None, "hard_threshold": None}}}, "nothing would be left out"),
        ({"data": {"curriculum": {"easy_threshold": 0.5, "hard_threshold": 0.5}}}, "is not below easy_threshold"),
        (
            {"data": {"curriculum": {}}, "reward": {"accuracy_weight": 0, "format_weight": 1}},
            "reward.accuracy_weight is 0 and none is judged",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            build_config(section)
