"""`mmhicra bench attention`: all sides compute the same, and what cannot run here is said."""

import io
import json

import pytest
import torch
from rich.console import Console

from benchmarks.attention import USUAL, print_attention, rowwise, run_attention
from benchmarks.shapes import REGIMES, Regime
from mmhicra.cli import main
from mmhicra.core.errors import UserError
from mmhicra.train.update.attention import ATTENTIONS, segments
from mmhicra.train.update.layout import Layout

SMALL = Regime("small", (4, 5), 12, (6, 6, 6))


def test_rows_with_copies_of_the_prompt_equal_the_shared_one():
    torch.manual_seed(0)
    flat = [torch.randn(32 + 3 * 6, heads, 8) for heads in (6, 2, 2)]
    copies = [torch.cat([torch.cat([t[:32], t[start : start + 6]]) for start in (32, 38, 44)]) for t in flat]
    shared = segments(*flat, Layout.of([(32, SMALL.responses)]), 0.3)
    copied = rowwise(*copies, rows=3, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(copied[0, :32], shared[:32])
    torch.testing.assert_close(copied[:, 32:].flatten(0, 1), shared[32:])


def test_every_attention_is_measured_or_left_out_with_a_reason(monkeypatch):
    monkeypatch.setitem(REGIMES, "small", SMALL)
    result = run_attention("tiny", "small", 0, 2, "fp32")
    measured = result["seconds"]
    assert {USUAL, "segments", "dense"} <= set(measured)
    assert (set(measured) - {USUAL}) | set(result["left_out"]) == set(ATTENTIONS)
    assert result["ratio"].keys() == measured.keys()
    assert all(len(times) == 2 for phases in measured.values() for times in phases.values())
    file = io.StringIO()
    print_attention(result, Console(file=file, width=200))
    text = " ".join(file.getvalue().split())
    assert "heads of tiny, regime small: prompt 32, 3 responses of 6, fp32" in text
    assert all(reason in text for reason in result["left_out"].values())


def test_whoever_waits_is_told_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setitem(REGIMES, "A", SMALL)
    assert main(["bench", "attention", "--model", "tiny", "--pairs", "2", "--json"]) == 0
    output = capsys.readouterr()
    assert len(json.loads(output.out)["seconds"]["segments"]["forward"]) == 2
    begun = [f"bench attention: {text}" for text in ("warming up", "pass 1 of 2", "pass 2 of 2")]
    assert output.err.splitlines() == begun


def test_no_pass_is_refused():
    with pytest.raises(UserError, match="--pairs is 0"):
        run_attention("tiny", "A", 0, 0, "fp32")
