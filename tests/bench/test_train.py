"""`mmhicra bench train`: both sides do the same work, and the table says what was measured."""

import io
from dataclasses import asdict, replace

import pytest
import torch
from bench.rank_scaling import SMALL
from on_ranks import on_ranks
from rich.console import Console

from benchmarks import flops, shapes
from benchmarks.flops import count_flops
from benchmarks.logprob import ours, plain, print_logprob, run_logprob
from benchmarks.rollout import print_rollout, run_rollout
from benchmarks.scaling import ScalingSettings, measure_rank, print_scaling, write_scene
from benchmarks.shapes import REGIMES
from benchmarks.train import PHASES, Settings, print_train, run_train, sides, write_files
from mmhicra.core.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("trl", reason="the extra mmhicra[bench] is not installed")
    monkeypatch.setitem(REGIMES, "small", SMALL)
    return Settings(model="tiny", regime="small", pairs=1, memory=False)


def gradients(model):
    return torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])


def test_both_sides_have_the_same_gradients(small, tmp_path, monkeypatch):
    with sides(small, write_files(small, tmp_path), tmp_path) as (ours, theirs):
        _, group = ours.step()
        assert (len(group.prompt), [len(c) for c in group.completions]) == (32, [3, 6, 5, 2])
        update = theirs.updating(group)
        for optimizer in (ours.trainer.optimizer, theirs.trainer.optimizer):
            monkeypatch.setattr(optimizer, "zero_grad", lambda *_, **__: None)
        ours.update(group)
        update()
        own, other = gradients(ours.trainer.unwrapped.model), gradients(theirs.trainer.model)
        assert own.shape == other.shape
        # Ours leaves the image tokens out of the distribution, theirs does not: 4 of 1024 tokens.
        assert (own - other).norm() < 5e-3 * other.norm()


def test_a_trie_of_text_has_the_gradients_of_our_row(small, tmp_path, monkeypatch):
    text = replace(small, against="trl-async", update_only=True)
    with sides(text, write_files(text, tmp_path), tmp_path) as (ours, theirs):
        model, group = ours.trainer.unwrapped.model, ours.made_up()
        assert (len(group.prompt), group.prompt.images) == (32, ())
        found = []
        monkeypatch.setattr(ours.trainer.optimizer, "zero_grad", lambda *_, **__: None)
        monkeypatch.setattr(model, "zero_grad", lambda *_, **__: None)
        for update in (lambda: ours.update(group), theirs.updating(group)):
            update()
            found.append(gradients(model))
            for parameter in model.parameters():
                parameter.grad = None
        own, other = found
        assert own.norm() > 0
        assert (own - other).norm() < 5e-3 * other.norm()
    with pytest.raises(UserError, match="add --update-only"):
        run_train(replace(text, update_only=False))


def test_the_table_shows_every_phase(small):
    result = run_train(small)
    assert set(result["seconds"]) == {"mmhicra", "trl"}
    assert all(len(result["seconds"]["trl"][phase]) == 1 for phase in PHASES)
    assert result["flops"]["trl"] > 2 * result["flops"]["mmhicra"] > 0, "their prompt is computed four times"
    assert 0 < result["utilisation"] < 1
    file = io.StringIO()
    print_train(result, Console(file=file, width=200))
    text = file.getvalue()
    assert all(phase in text for phase in PHASES)
    assert "prompt 32, 4 responses of 2 to 6" in text
    assert result["mfu"] is None, "only bf16 is a share of the data sheet's rate"
    assert "MFU" not in text
    print_train(result | {"mfu": 0.25}, Console(file=file, width=200))
    assert "at 25% of the data sheet's rate: MFU" in file.getvalue()


def test_peak_memory_is_that_of_the_work():
    result = run_train(Settings(model="tiny", regime="A", pairs=1, against="none"))
    assert 2**20 < result["memory"]["mmhicra"] < 2**30


def test_flops_are_those_of_the_products():
    left, right = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7
    assert count_flops(lambda: (left @ right).sum().backward()) == 2 * 2 * 3 * 5 * 7


def test_flops_of_attention_are_those_of_what_is_seen():
    """On the meta device: kernels of a GPU, with fewer key heads than query heads, causal."""
    aten = torch.ops.aten
    query, key = (torch.empty(1, heads, 100, 16, device="meta", dtype=torch.bfloat16) for heads in (6, 2))
    half = 2 * 2 * 6 * 100 * 100 * 16 // 2
    assert count_flops(lambda: aten._scaled_dot_product_flash_attention(query, key, key, 0.0, True)) == half
    assert (
        count_flops(lambda: aten._scaled_dot_product_efficient_attention(query, query, query, None, True)) == 2 * half
    )
    rows, columns = torch.tensor([0, 4, 7]), torch.tensor([0, 4, 11])  # a prompt of 4, and a response of 3 behind it
    seen = (1 + 2 + 3 + 4) + (5 + 6 + 7)
    assert flops._varlen(torch.empty(7, 6, 16), query, query, rows, columns, 4, 7, 0.0, True) == 2 * 2 * seen * 6 * 16


def test_updates_alone_need_neither_rollout_nor_optimizer(small):
    result = run_train(replace(small, update_only=True, rows=2))
    assert list(result["seconds"]["trl"]) == ["forward", "backward", "update"]
    assert result["flops"]["trl"] > 2 * result["flops"]["mmhicra"] > 0
    print_train(result, Console(file=io.StringIO()))


def test_both_engines_generate_what_they_are_told(small):
    result = run_rollout("tiny", "small", 0, 1, "fp32")
    assert {side: len(found) for side, found in result["seconds"].items()} == {"mmhicra": 1, "transformers": 1}
    file = io.StringIO()
    print_rollout(result, Console(file=file, width=200))
    assert "prompt 32, 4 responses of 2 to 6" in file.getvalue()


def test_log_probs_in_chunks_equal_the_plain_ones_and_need_less_memory():
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(40, 16), torch.randn(300, 16), torch.randint(300, (40,))
    for found, wanted in zip(ours(7, "fused")(hidden, head, targets), plain(hidden, head, targets), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    result = run_logprob(tokens=1024, hidden=64, vocabulary=20_000, chunk=64, pairs=1, precision="fp32")
    assert result["memory"]["mmhicra"] < result["memory"]["plain"] / 3
    file = io.StringIO()
    print_logprob(result, Console(file=file, width=200))
    assert "1,024 tokens, hidden 64, vocabulary 20,000" in file.getvalue()


@pytest.mark.parametrize("name", sorted(REGIMES))
def test_prompts_have_the_length_of_the_regime(name, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes.Image.Image, "save", lambda *_, **__: None)
    files = write_files(Settings(model="tiny", regime=name), tmp_path)
    assert len(files[1].read_text().splitlines()) == 4


def test_uneven_micro_batches_are_refused():
    with pytest.raises(UserError, match="--rows 3 does not divide the 8 responses"):
        run_train(Settings(model="tiny", regime="A", rows=3))


def test_no_pair_is_refused():
    with pytest.raises(UserError, match="--pairs is 0"):
        run_train(Settings(model="tiny", regime="A", pairs=0, against="none"))


def test_ranks_that_share_a_model_hold_their_part_and_compute_as_much(tmp_path, monkeypatch):
    monkeypatch.setitem(REGIMES, "small", SMALL)
    settings = ScalingSettings("tiny", "small", processes=(1, 2), pairs=1)
    write_scene(settings, tmp_path)
    alone = measure_rank(settings, 1, tmp_path)
    ranks = on_ranks(
        2, "bench.rank_scaling:measure", tmp_path / "ranks", settings=asdict(settings), scene=str(tmp_path)
    )
    assert [rank["parameters"] for rank in ranks] == pytest.approx([alone["parameters"] / 2] * 2, rel=0.02)
    assert [rank["flops"] for rank in ranks] == [alone["flops"]] * 2
    assert alone["communicated"] == 0 < ranks[0]["communicated"] == ranks[1]["communicated"]
    result = {"settings": asdict(settings), "ranks": {"1": [alone], "2": ranks}, "machine": {"cores": 2}}
    file = io.StringIO()
    print_scaling(result, Console(file=file, width=200))
    assert "a group a rank, model.shard=true" in file.getvalue()
    assert "seconds are of processes that share them" in file.getvalue()
