"""Remedies name the line of the file they change."""

from mmhicra.config.loading import load_config
from mmhicra.doctor.findings import Remedy
from mmhicra.doctor.lines import ConfigLines

FILE = """\
# A run
seed: 3
data:
  source: visual_math
  max_pixels: 7056      # small
train:
  optimizer:
    learning_rate: 1e-4
"""


def test_places(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE)
    overrides = ["rollout.n=4", "model.freeze.merger=true"]
    lines = ConfigLines(str(path), overrides, load_config(path, overrides))
    assert lines.place("seed") == f"{path}:2"
    assert lines.place("data.max_pixels") == f"{path}:5"
    assert lines.place("train.optimizer.learning_rate") == f"{path}:8"
    assert lines.place("rollout.n") == "--set"
    assert lines.place("model.freeze.merger") == "--set"
    assert lines.place("train.steps") == f"{path}:6, add under train"
    assert lines.place("log.project") == f"{path}, add"
    assert lines.show(Remedy("data.max_pixels", 3136)) == f"{path}:5: data.max_pixels: 3136 (now 7056)"
    assert lines.show(Remedy("log.project", "other")) == f"{path}, add: log: {{project: other}} (now mmhicra)"
    assert lines.show(Remedy("rollout.stop_tokens", ["<|im_end|>"])).endswith(
        "add: rollout: {stop_tokens: [<|im_end|>]} (now [])"
    )
    columns = Remedy("data.columns", {"question": "my_question"})
    assert lines.show(columns).startswith(f"{path}:3, add under data: columns: {{question: my_question}}")
    assert lines.show(Remedy("data.image_folder", words="the images")) == (
        f"{path}:3, add under data: image_folder: (the images)"
    )
    assert lines.show(Remedy(command="pip install x")) == "run: pip install x"


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    for name in ("broken.yaml", "missing.yaml"):
        assert ConfigLines(str(tmp_path / name), []).place("data.source") == f"{tmp_path / name}, add"
