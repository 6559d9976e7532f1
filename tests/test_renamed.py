"""What had another name in the first release candidate is still understood, with a warning that says the new one."""

import importlib
import importlib.util
import json
import sys

import pytest

from mmhicra.core import errors, renamed
from mmhicra.report.folder import read_run


@pytest.mark.parametrize("old", sorted(renamed.OLD))
def test_an_old_module_is_the_new_one(old):
    new = f"mmhicra.{renamed.OLD[old]}"
    assert importlib.util.find_spec(new) is not None
    assert new.removeprefix("mmhicra.") not in renamed.OLD, "an old name must lead to today's at once"


def test_an_old_module_imports_once_and_keeps_its_specification(monkeypatch):
    monkeypatch.delitem(sys.modules, "mmhicra.train.terminal", raising=False)
    with pytest.warns(DeprecationWarning, match=r"train\.terminal is called mmhicra\.train\.loop\.terminal now"):
        old = importlib.import_module("mmhicra.train.terminal")
    new = importlib.import_module("mmhicra.train.loop.terminal")
    assert old is new
    assert new.__spec__.name == "mmhicra.train.loop.terminal"


@pytest.mark.parametrize("kind", ["", "Config", "Data", "RunFolder"])
def test_an_old_error_is_the_new_one(kind):
    new = f"{kind}Error" if kind else "UserError"
    with pytest.warns(DeprecationWarning, match=f"{kind}Refusal is called {new} now"):
        assert getattr(errors, f"{kind}Refusal") is getattr(errors, new)
    with pytest.raises(AttributeError):
        errors.OtherRefusal  # noqa: B018


def test_the_page_reads_the_metrics_of_older_runs(tmp_path):
    line = {"step": 1, "optimiser/grad_norm": 0.5, "optimiser/learning_rate": 1e-6, "time/optimiser": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (read,) = read_run(tmp_path).metrics
    assert read == {"step": 1, "optimizer/grad_norm": 0.5, "optimizer/learning_rate": 1e-6, "time/optimizer": 2.0}
