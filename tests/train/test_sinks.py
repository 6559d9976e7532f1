"""Curves of a run that was killed and resumed: no step twice, and the trackers know it again."""

import importlib
import sys

import pytest
from accelerate.state import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train.fake_trackers import PACKAGES

from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError, RunFolderError
from mmhicra.core.names import TRACKER_PACKAGES
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.secrets import REMOVED, without_secrets
from mmhicra.train.loop.trackers import TensorBoard, TrackerSink, open_trackers, refuse_missing_trackers

SERVICES = [name for name in TRACKER_PACKAGES if name != "tensorboard"]
RECORD = {"grams": "f00", "reward/mean": 1.0, "eval/aime@8": 0.5, "flag": True}


@pytest.fixture(autouse=True)
def process():
    """What every run has; the first logger of accelerate asks for it."""
    PartialState(cpu=True)


def log_section(**fields):
    return build_config({"log": fields}).log  # log.trackers, log.project


def curve(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars("reward/mean")]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a fake package in the way of imports; returns it."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def put(name):
        package = TRACKER_PACKAGES[name]
        (folder / f"{package}.py").write_text(PACKAGES[package])
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, package, raising=False)
        module = importlib.import_module(package)
        monkeypatch.setitem(sys.modules, package, module)
        return module

    return put


@pytest.mark.parametrize("after", [-1, 0, 2])
def test_tensorboard_shows_every_step_once(tmp_path, after):
    """The first one is never closed, as in a killed run."""
    folder, said = RunFolder(tmp_path), []
    (killed,) = open_trackers(log_section(), folder, {}, None, 0, said.append)
    for step in range(4):
        killed.log(step, {"step": step, "grams": "f00", "reward/mean": float(step)})
    (resumed,) = open_trackers(log_section(), folder, {}, after, 3, said.append)
    for step in range(after + 1, 6):
        resumed.log(step, {"step": step, "reward/mean": float(step)})
    assert curve(folder.tensorboard) == [(step, float(step)) for step in range(6)]
    assert said == []


def test_a_lost_folder_gives_one_line(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write"):
        TensorBoard(tmp_path / "gone" / "tensorboard", None).start()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_knows_a_resumed_run_again(tmp_path, package, name):
    module, folder, said = package(name), RunFolder(tmp_path / "triangles"), []
    folder.make()
    starts = []
    for seed, sent in ((5, 0), (6, 3)):
        options = log_section(trackers=[name], project="geometry")
        (sink,) = open_trackers(options, folder, {"seed": seed, "log": {"api_key": "s3cret"}}, None, sent, said.append)
        starts.append(dict(next(call for call in module.calls[::-1] if call[0] == "init")[1]))
        for step in range(5):
            sink.log(step, {"step": step, **RECORD})
        sink.close()
    assert said == []
    identity = folder.tracker_identity(name)
    logged = [call for call in module.calls if call[0] == "log"]
    steps = [call[1] for call in logged if any("reward" in key for key in call[2])]
    assert steps == [0, 1, 2, 3, 4, 3, 4]
    assert [value for call in logged for value in call[2].values()][:2] == [1.0, 0.5]
    assert [call for call in module.calls if call[0] == "finish"] == [("finish",)] * 2
    known = [{key: value for key, value in start.items() if key != "config"} for start in starts]
    expected = {
        "wandb": {"project": "geometry", "name": "triangles", "id": identity, "resume": "allow"},
        "trackio": {"project": "geometry", "name": f"triangles-{identity}", "resume": "allow"},
        "swanlab": {"project": "geometry", "experiment_name": "triangles", "id": identity, "resume": "allow"},
        "mlflow": {"run_name": "triangles", "run_id": "chosen-by-mlflow"},
        "comet": {"project_name": "geometry", "experiment_key": identity},
    }[name]
    assert known[1] == expected
    assert known[0] == (expected | {"run_id": None} if name == "mlflow" else expected)
    assert len(identity) == {"wandb": 12, "trackio": 12, "swanlab": 21, "comet": 32, "mlflow": 16}[name]
    shown = module.parameters if name in ("mlflow", "comet") else starts[0]["config"]
    assert shown in ({"seed": 5, "log": {"api_key": REMOVED}}, {"seed": 5 + (name == "comet"), "log.api_key": REMOVED})
    if name == "mlflow":
        assert ("experiment", "geometry") in module.calls
    if name == "comet":
        assert ("name", "triangles") in module.calls


def test_several_trackers_at_once_each_under_an_identity_of_its_own(tmp_path, package):
    for name in ("wandb", "swanlab"):
        package(name)
    folder = RunFolder(tmp_path)
    options = log_section(trackers=["tensorboard", "wandb", "swanlab"])
    sinks = open_trackers(options, folder, {}, None, 0, print)
    for sink in sinks:
        sink.log(1, {"step": 1, "reward/mean": 2.0})
        sink.close()
    assert curve(folder.tensorboard) == [(1, 2.0)]
    assert [call[:2] for call in sys.modules["wandb"].calls[1:]] == [("log", 1), ("finish",)]
    assert folder.tracker_identity("wandb") != folder.tracker_identity("swanlab")


def test_a_service_that_cannot_be_started_is_one_line(tmp_path, package, monkeypatch):
    def init(**options):
        raise RuntimeError("no API key\nlog in first")

    monkeypatch.setattr(package("wandb"), "init", init)
    with pytest.raises(ConfigError, match=r"log.trackers: wandb cannot be started \(no API key log in first\)"):
        open_trackers(log_section(trackers=["wandb"]), RunFolder(tmp_path), {}, None, 0, print)


def test_a_service_that_fails_later_is_told_of_and_ends_nothing(tmp_path, package, monkeypatch):
    module, said, down = package("wandb"), [], [2, 3, 5]

    def log(run, values, step):
        if step in down:
            raise ConnectionError("no route")

    monkeypatch.setattr(module.Run, "log", log)
    monkeypatch.setattr(module.Run, "finish", lambda run: 1 / 0)
    (sink,) = open_trackers(log_section(trackers=["wandb"]), RunFolder(tmp_path), {}, None, 0, said.append)
    for step in range(1, 6):
        sink.log(step, {"step": step, "reward/mean": 1.0})
    sink.close()
    assert said == [
        "warning: wandb did not take step 2: ConnectionError('no route')",
        "warning: wandb lacks 2 steps (2 to 3)",
        "warning: wandb did not take step 5: ConnectionError('no route')",
        "warning: wandb could not be ended: ZeroDivisionError('division by zero')",
    ]


def test_a_full_disk_under_tensorboard_ends_the_run(tmp_path):
    sink = TrackerSink(TensorBoard(tmp_path / "tensorboard", None), print)
    sink.tracker.start()
    sink.tracker.file.close()
    sink.tracker.file = open("/dev/full", "wb")  # noqa: SIM115 - never flushed, so there is nothing to lose
    sink.tracker.writer = type(sink.tracker.writer)(sink.tracker.file)
    with pytest.raises(RunFolderError, match="No space left on device"):
        sink.log(1, {"step": 1, "reward/mean": 1.0})


@pytest.mark.parametrize("name", SERVICES)
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package == TRACKER_PACKAGES[name] else True)
    with pytest.raises(ConfigError) as refusal:
        refuse_missing_trackers(log_section(trackers=["tensorboard", name]))
    assert str(refusal.value) == (
        f"log.trackers names {name}, but the package {TRACKER_PACKAGES[name]} is not installed: pip install "
        f"'mmhicra[{name}]', or --set log.trackers=[tensorboard]"
    )


@pytest.mark.parametrize(
    ("section", "trackers"),
    [
        ({}, ["tensorboard"]),
        ({"trackers": []}, []),
        ({"tensorboard": False, "wandb": True, "trackio": False}, ["wandb"]),
        ({"tensorboard": True}, ["tensorboard"]),
        ({"trackers": ["mlflow"], "wandb": True, "tensorboard": False}, ["mlflow", "wandb"]),
        ({"trackers": ["wandb", "mlflow"], "wandb": False}, ["mlflow"]),
    ],
)
def test_switches_of_older_files_are_read(section, trackers):
    assert log_section(**section).trackers == trackers


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"trackers": ["wandb", "wandb"]}, "log.trackers: wandb is named twice"),
        ({"trackers": ["aim"]}, "log.trackers.0 is 'aim'"),
        ({"wandb": "yes"}, "log.wandb is not a known field"),
        ({"trackers": "wandb", "tensorboard": False}, "log.trackers is 'wandb'"),
    ],
)
def test_trackers_that_are_none_are_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        log_section(**section)


def test_no_secret_is_sent():
    tree = {
        "api_key": "abc", "apiKey": "abc", "judge": {"auth-token": "abc", "password": "abc", "api_key_env": "MY_KEY"},
        "max_prompt_tokens": 512, "stop_tokens": ["<|im_end|>"], "token": None, "empty_secret": "",
        "source": "https://me:pw@host/data?sig=abc#part", "plain": "https://host/data", "path": "./a@b?c",
        "list": ["hf_" + "a" * 30, "key sk-proj-" + "b" * 30 + " in text"],
    }  # fmt: skip
    assert without_secrets(tree) == {
        "api_key": REMOVED, "apiKey": REMOVED,
        "judge": {"auth-token": REMOVED, "password": REMOVED, "api_key_env": "MY_KEY"},
        "max_prompt_tokens": 512, "stop_tokens": ["<|im_end|>"], "token": None, "empty_secret": "",
        "source": f"https://{REMOVED}@host/data?{REMOVED}", "plain": "https://host/data", "path": "./a@b?c",
        "list": [REMOVED, f"key {REMOVED} in text"],
    }  # fmt: skip
