"""lmms-eval itself as the driver: its tasks are ours, its model is our engine, and the labels are those without it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from made_questions import write_questions
from PIL import Image

from mmhicra.cli import main
from mmhicra.commands import eval_lmms
from mmhicra.core.errors import ConfigError, DataError, UserError
from mmhicra.core.records import IMAGE_PLACEHOLDER, ProblemImage
from mmhicra.evaluate.benchmarks.registry import load_items, load_questions, load_responses, make_benchmark, pair
from mmhicra.evaluate.lmms.questions import hub_form, save
from mmhicra.evaluate.lmms.tasks import accuracy, mathverse_results
from mmhicra.evaluate.scoring.records import Response
from mmhicra.evaluate.scoring.score import score_pairs

pytestmark = pytest.mark.slow

pytest.importorskip("lmms_eval", reason=f"lmms-eval is not installed: {eval_lmms.INSTALL}")

COUNT = 6
SPLITS = {"mathvista": "testmini", "mathverse": "testmini", "mathvision": "test"}


def drive_stored(benchmark, items, responses, source, folder):
    """Our records of stored responses, by way of lmms-eval and its four threads."""
    from mmhicra.evaluate.lmms.driver import drive, make_task
    from tools.lmms_parity.builtin import replay

    name = benchmark.name
    data = save(hub_form(name, items, str(source)), SPLITS[name], folder / name)
    return drive(replay([response.text for response in responses]), {name: make_task(name, data)})


def assert_same_labels(benchmark, pairs, source, folder, verifier):
    # lmms-eval strips responses before they are scored.
    pairs = [(item, Response(item.id, f"\n {response.text}\n\n")) for item, response in pairs]
    records, result = drive_stored(benchmark, *zip(*pairs, strict=True), source, folder)
    metrics = result["results"][f"mmhicra_{benchmark.name}"]
    for mode in ("official", "robust"):
        ours = score_pairs(benchmark, pairs, mode, verifier=verifier)
        theirs = records[benchmark.name][mode]
        assert [(r.id, r.correct, r.extracted, r.method) for r in theirs] == [
            (r.id, r.correct, r.extracted, r.method) for r in ours
        ]
        assert 0 < sum(record.correct for record in ours) < len(ours)
        assert metrics[f"{mode},none"] == pytest.approx(sum(r.correct for r in ours) / len(ours))


@pytest.mark.parametrize("name", ["Qwen-VL-Plus", "GPT4-CoT_Text_Only"])
def test_same_labels_on_responses_to_mathvision(data_folder, tmp_path, verifier, name):
    benchmark, questions = make_benchmark("mathvision"), data_folder / "mathvision" / "test.jsonl.gz"
    path = str(data_folder / "mathvision" / "outputs" / f"{name}.jsonl.gz")
    pairs = pair(load_items(benchmark, str(questions)), load_responses(benchmark, path)[0], path)[
        :: 8 if data_folder.real else 1
    ]
    assert_same_labels(benchmark, pairs, questions, tmp_path, verifier)


def test_same_labels_on_responses_to_mathvista(data_folder, tmp_path, verifier):
    benchmark = make_benchmark("mathvista")
    path = str(data_folder / "mathvista" / "results" / "bard" / "output_bard.json.gz")
    responses, items = load_responses(benchmark, path)
    assert_same_labels(
        benchmark, pair(items, responses, path)[:: 2 if data_folder.real else 1], path, tmp_path, verifier
    )


def test_same_labels_on_golds_of_mathverse(data_folder, tmp_path, verifier):
    benchmark, questions = make_benchmark("mathverse"), data_folder / "mathverse" / "testmini_text_only.json.gz"
    items = load_items(benchmark, str(questions))[:150]
    golds = [item.answer if number % 2 else items[number - 1].answer for number, item in enumerate(items)]
    pairs = [(item, Response(item.id, gold)) for item, gold in zip(items, golds, strict=True)]
    assert_same_labels(benchmark, pairs, questions, tmp_path, verifier)


def in_hub_form(files, folder):
    """Parquet with the images in it, as on the hub."""
    shards = {}
    for name, file in files.items():
        items = load_questions(make_benchmark(name), str(file))
        shards[name] = folder / name / "data" / f"{SPLITS[name]}-00000-of-00001.parquet"
        shards[name].parent.mkdir(parents=True)
        hub_form(name, items, str(file)).to_parquet(str(shards[name]))
    return {name: shard.parents[1] for name, shard in shards.items()}


def test_all_three_benchmarks_give_what_they_give_without_lmms_eval(tmp_path, capsys):
    folders = in_hub_form(write_questions(tmp_path, COUNT), tmp_path / "hub")
    data = [part for name, folder in folders.items() for part in ("--data", f"{name}={folder}")]
    small = ["--max-new-tokens", "12", "--max-pixels", "7056", "--set", "rollout.max_sequences=4", "--set", "threads=1"]
    command = ["eval", "--model", "tiny_vlm", "--benchmarks", ",".join(folders), *data, *small]
    alone, driven = tmp_path / "alone", tmp_path / "driven"
    assert main([*command, "--out", str(alone)]) == 0
    assert main([*command, "--out", str(driven), "--backend", "lmms-eval"]) == 0
    for path in sorted(alone.glob("*.jsonl")):
        assert (driven / path.name).read_text() == path.read_text()
    for path in sorted(alone.glob("*.official.json")) + sorted(alone.glob("*.robust.json")):
        one, other = json.loads(path.read_text()), json.loads((driven / path.name).read_text())
        assert other.pop("driver") == {"name": "lmms-eval", "version": "0.7.3", "threads": 4}
        assert {key: one[key] for key in other if key != "scored"} == {k: other[k] for k in other if k != "scored"}
    assert (driven / "leaderboard.csv").read_text() == (alone / "leaderboard.csv").read_text()
    assert set(json.loads((driven / "lmms_eval.json").read_text())["results"]) == {
        f"mmhicra_{name}" for name in folders
    }
    capsys.readouterr()
    assert main([*command, "--out", str(driven), "--backend", "lmms-eval"]) == 2
    assert "holds responses already" in capsys.readouterr().err


def test_repeats_are_the_completions_of_one_prompt(tmp_path):
    from mmhicra.evaluate.lmms.driver import make_task
    from mmhicra.evaluate.lmms.model import EngineModel

    file = write_questions(tmp_path, 2)["mathvision"]
    items = load_questions(make_benchmark("mathvision"), str(file))
    sampled = {"max_new_tokens": 8, "temperature": 1.0, "do_sample": True, "top_p": 0}
    data = save(hub_form("mathvision", items, str(file)), "test", tmp_path / "saved")
    task = make_task("mathvision", data, "boxed", sampled)
    task.build_all_requests()
    model = EngineModel.load(path="tiny_vlm", max_pixels=7056)
    model.task_dict["mmhicra_mathvision"] = task.dataset
    first, second = task.instances
    said = [result.text for result in model.generate_until([first, first, second])]
    assert [[one.text for one in completions] for completions in model.completions.values()] == [said[:2], said[2:]]
    assert all(len(one) <= 8 for completions in model.completions.values() for one in completions)


def test_the_model_by_its_name(tmp_path):
    from lmms_eval.models import get_model

    from mmhicra.evaluate.lmms.model import EngineModel

    assert get_model("mmhicra") is EngineModel
    model = EngineModel.create_from_arg_string("path=tiny_vlm,max_new_tokens=4", {"batch_size": "2", "device": None})
    assert isinstance(model, EngineModel)
    assert (model.config.eval.max_new_tokens, model.config.rollout.max_sequences) == (4, 2)
    with pytest.raises(ConfigError, match="model argument device is not known"):
        EngineModel.create_from_arg_string("path=tiny_vlm", {"device": "cuda:0"})


def test_chats_of_its_tasks_are_read_part_by_part():
    from mmhicra.evaluate.lmms.model import read_messages

    picture = Image.new("RGB", (28, 28))
    system = {"role": "system", "content": [{"type": "text", "text": "Think."}]}
    parts = [
        {"type": "text", "text": "See "},
        {"type": "image", "url": picture},
        {"type": "text", "text": ": how many?"},
    ]
    said, problem = read_messages([system, {"role": "user", "content": parts}], "t/s/0")
    assert (said, problem.question) == ("Think.", f"See {IMAGE_PLACEHOLDER}: how many?")
    assert problem.images[0].open().size == (28, 28)
    turn = {"role": "user", "content": "What?"}
    assert read_messages([turn], "t/s/0")[0] is None
    with pytest.raises(DataError, match="t/s/0: a chat of several turns"):
        read_messages([turn, {"role": "assistant", "content": "This."}, turn], "t/s/0")
    with pytest.raises(DataError, match="holds video"):
        read_messages([{"role": "user", "content": [{"type": "video", "url": "x.mp4"}]}], "t/s/0")


def test_questions_take_the_form_they_have_on_the_hub(data_folder, read_json):
    source = str(data_folder / "mathvista" / "testmini.json.gz")
    form = hub_form("mathvista", load_items(make_benchmark("mathvista"), source), source)
    assert form.features["precision"] == datasets.Value("float64")  # the official JSON has integers
    queries = read_json(data_folder / "mathvista" / "query.json.gz")
    assert all(row["query"] == queries[row["pid"]] for row in form)
    with pytest.raises(ConfigError, match="not for aime24"):
        hub_form("aime24", [])


def test_an_image_that_is_not_there_is_refused_by_its_question(tmp_path):
    file = write_questions(tmp_path, 2)["mathvista"]
    rows = [json.loads(line) | {"image": "nowhere.png"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = load_questions(make_benchmark("mathvista"), str(file))
    with pytest.raises(DataError, match=r"mathvista, question 0: image nowhere\.png cannot be read"):
        hub_form("mathvista", items, str(file))


def test_text_only_is_no_part_of_the_headline():
    base = {
        "problem_index": "1", "question": "Which?\nChoices:\nA:1\nB:2", "answer": "B", "question_type": "multi-choice",
    }  # fmt: skip
    said = {"Text Lite": ["B", "A"], "Text Only": ["B"]}
    verdicts = [
        mathverse_results(base | {"sample_index": "1", "problem_version": version}, texts)
        for version, texts in said.items()
    ]
    assert [verdict["robust"]["score"] for verdict in verdicts] == [0.5, 1.0]
    assert accuracy([verdict["robust"] for verdict in verdicts]) == 0.5
    assert accuracy([verdicts[1]["robust"]]) == 1.0


def without_lmms_eval(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"version": without_lmms_eval}, r"lmms-eval is not installed: pip install \"mmhicra\[lmms\]\" and then"),
        ({"version": lambda name: "0.8.0"}, "lmms-eval 0.8.0 has other defects"),
        ({"find_spec": lambda name: None}, "lmms-eval lacks evaluate, loguru"),
    ],
)
def test_what_is_not_installed_is_said(monkeypatch, found, said):
    for name, stand_in in found.items():
        monkeypatch.setattr(eval_lmms, name, stand_in)
    with pytest.raises(UserError, match=said):
        eval_lmms.require_lmms_eval(exactly=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--judge", "http://127.0.0.1:9", "--judge-model", "m"], "drop --judge"),
        (["--n", "2", "--temperature", "1"], "eval.n is 2"),
        (["--benchmarks", "aime24"], "not for aime24"),
    ],
)
def test_what_the_backend_cannot_do_is_refused(tmp_path, capsys, more, said):
    file = write_questions(tmp_path, 2)["mathvision"]
    if "aime24" in more:
        file = tmp_path / "test.jsonl"
        file.write_text(json.dumps({"problem": "1+1?", "answer": "2", "id": "1"}) + "\n")
    name = "aime24" if "aime24" in more else "mathvision"
    command = [
        "eval",
        "--model",
        "tiny_vlm",
        "--benchmarks",
        name,
        "--data",
        f"{name}={file}",
        "--backend",
        "lmms-eval",
    ]
    assert (
        main([*command, *[part for part in more if part not in ("--benchmarks", "aime24")], "--out", str(tmp_path)])
        == 2
    )
    assert said in capsys.readouterr().err


def test_rows_without_their_image_are_refused():
    from mmhicra.evaluate.lmms.tasks import visuals

    with pytest.raises(DataError, match="image path has no folder"):
        visuals({"pid": "7", "image": "images/7.jpg"})
    assert visuals({"pid": "7", "image": None}) == []


def test_a_task_keeps_to_its_file():
    from lmms_eval.utils import load_yaml_config

    from mmhicra.core.resources import evaluation_path
    from mmhicra.evaluate.benchmarks.cards import read_card

    for name in SPLITS:
        config = SimpleNamespace(**load_yaml_config(str(evaluation_path(f"tasks/mmhicra_{name}.yaml")), mode="full"))
        card = read_card(name)
        assert (
            config.dataset_path + (f":{config.dataset_name}" if hasattr(config, "dataset_name") else "") == card.hub[0]
        )
        assert (config.test_split, config.lmms_eval_specific_kwargs["default"]["prompt"]) == (
            card.split,
            card.prompts[0],
        )
        assert (config.reasoning_tags, config.generation_kwargs["until"]) == ("none", [])
        assert Path(evaluation_path("tasks"), f"mmhicra_{name}.yaml").name == f"{config.task}.yaml"


def test_truncated_images_stay_unreadable_beside_lmms_eval(tmp_path):
    """lmms-eval makes Pillow fill what is missing with grey, for the whole process."""
    import mmhicra.evaluate.lmms.driver

    assert mmhicra.evaluate.lmms.driver.THREADS
    Image.effect_noise((84, 84), 50).save(tmp_path / "whole.png")
    with pytest.raises(OSError, match="truncated"):
        ProblemImage((tmp_path / "whole.png").read_bytes()[:2000], "half.png").open()
