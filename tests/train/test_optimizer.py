"""Every kind of optimizer against torch's own AdamW, resumed against never stopped, and several ranks against one."""

import copy

import pytest
import torch
from on_ranks import on_ranks
from torch import nn
from train.rank_optimizer import KINDS, RATE, flat_state, make, parts_of, small_model, take_steps

from mmhicra.config import OptimizerConfig
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.tensor_parts import load_parts, parts_in
from mmhicra.train.distributed.sharding import restore_states, whole_optimizer_state, whole_state
from mmhicra.train.update.adamw import StoredAdamW, block_of
from mmhicra.train.update.optimizer import describe_optimizer, make_optimizer, refuse_optimizer

torchao_optim = pytest.importorskip("torchao.optim", reason="needs torchao")


def weights_of(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def groups_of(model):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def test_stored_as_ever_it_is_torchs_adamw():
    """To the bit; on the CPU after an offload, fused, to rounding."""
    plain, stored, offloaded = make({})[0], small_model(), make({"offload": True})
    options = {"lr": RATE, "betas": (0.9, 0.999)}
    take_steps(plain, torch.optim.AdamW(groups_of(plain), **options), range(4))
    take_steps(stored, StoredAdamW(groups_of(stored), **options, masters={}), range(4))
    take_steps(*offloaded, range(4))
    for one, two, three in zip(plain.parameters(), stored.parameters(), offloaded[0].parameters(), strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(three, one, atol=1e-6, rtol=1e-6)


def test_masters_go_as_weights_do_under_autocast():
    """Weights in bfloat16 are the rounding of what float32 weights come to, to the bit."""
    plain, half = make({}), make({}, half=True)
    for model, optimizer in (plain, half):
        take_steps(model, optimizer, range(4), autocast=True)
    rounded = 0
    for one, two in zip(plain[0].parameters(), half[0].parameters(), strict=True):
        master = half[1].state[two].get("master", two)
        rounded += two.dtype == torch.bfloat16
        assert torch.equal(master, one)
        assert torch.equal(two, master.to(two.dtype))
    assert rounded == 6


def test_8_bits_are_torchaos():
    """To the bit, where torchao has 8 bits in blocks of the same size; elsewhere torch's AdamW."""
    model, optimizer = make({"kind": "adamw_8bit"})
    theirs = small_model()
    assert [block_of(p.shape) for p in theirs.parameters()] == [64, 0, 0, 0, 256, 0, 0, 0]
    of_theirs = torchao_optim.AdamW8bit([theirs[2].weight], lr=RATE, weight_decay=0.1)
    rest = [parameter for parameter in theirs.parameters() if parameter is not theirs[2].weight]
    for step in range(3):
        gradients = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) for p in model.parameters()]
        for own, other, gradient in zip(model.parameters(), theirs.parameters(), gradients, strict=True):
            own.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        with torch.compiler.set_stance("force_eager"):
            of_theirs.step()
    assert torch.equal(model[2].weight, theirs[2].weight)
    assert len(rest) == 7


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_never_stopped(kind, half):
    whole, fresh = make(KINDS[kind], half), make(KINDS[kind], half)
    take_steps(*whole, range(2), autocast=half)
    for parameter in fresh[0].parameters():
        parameter.data.add_(1.0)  # what is restored counts, not where it begins
    restore_states(*fresh, *copy.deepcopy((whole_state(whole[0]), whole_optimizer_state(*whole))))
    for pair in (whole, fresh):
        take_steps(*pair, range(2, 4), autocast=half)
    left, right = flat_state(*whole), flat_state(*fresh)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_what_was_never_updated_is_saved_and_restored():
    """A checkpoint may come before the first update, if that was skipped: masters are in it already."""
    whole, fresh = make({}, half=True), make({}, half=True)
    for parameter in fresh[0].parameters():
        fresh[1].state[parameter].get("master", parameter.data).add_(1.0)
    restore_states(*fresh, *copy.deepcopy((whole_state(whole[0]), whole_optimizer_state(*whole))))
    for pair in (whole, fresh):
        take_steps(*pair, [0], autocast=True)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole[0]), weights_of(fresh[0]), strict=True))


def test_another_kind_is_refused():
    whole, fresh = make({"kind": "adamw_8bit"}), make({"offload": True})
    with pytest.raises(UserError, match=r"of another kind \(first difference: exp_avg_scale\): resume with the"):
        restore_states(*fresh, whole_state(whole[0]), whole_optimizer_state(*whole))


def test_nothing_to_store_in_8_bits_is_refused():
    with pytest.raises(ConfigError, match="adamw_8bit has nothing to store in 8 bits"):
        make_optimizer(nn.Linear(33, 999), OptimizerConfig(kind="adamw_8bit"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_computes_what_the_cpu_does(kind, half):
    """With 8 bits compiled, and with an offload through pinned memory."""
    here, there = make(KINDS[kind], half), make(KINDS[kind], half, device="cuda")
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for own, other in zip(here[0].parameters(), there[0].parameters(), strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.cuda()
        here[1].step()
        there[1].step()
    offloaded = KINDS[kind].get("offload", False)
    for own, other in zip(here[0].parameters(), there[0].parameters(), strict=True):
        state = there[1].state[other]
        assert state["exp_avg"].is_cuda != offloaded
        exact, found = here[1].state[own].get("master", own), state.get("master", other)
        assert (found.detach().cpu() - exact.detach()).abs().max() <= (RATE if "8-bit" in kind else 1e-6)
        assert torch.equal(other, found.to(other.device, other.dtype))


def test_masters_are_not_copied_to_several_processes():
    options = ["model={precision: bf16, weights: bf16}"]
    refuse_optimizer(load_config(None, options), 1)
    refuse_optimizer(load_config(None, [*options, "model.shard=true"]), 2)
    refuse_optimizer(load_config(None, [*options, "model.lora={}"]), 2)
    with pytest.raises(ConfigError, match="bf16 with 2 processes would copy .* set model.shard to true"):
        refuse_optimizer(load_config(None, options), 2)


def test_8_bits_without_torchao_are_refused(monkeypatch):
    monkeypatch.setattr("mmhicra.core.extras.is_installed", lambda module: False)
    with pytest.raises(UserError, match=r"kind: adamw_8bit needs torchao, .*: pip install 'mmhicra\[torchao\]'"):
        refuse_optimizer(load_config(None, ["train.optimizer.kind=adamw_8bit"]), 1)


def test_a_line_says_what_is_stored_how():
    stored = make({"kind": "adamw_8bit", "offload": True}, half=True)[1]
    assert describe_optimizer(stored) == (
        "optimizer: AdamW over 35,355 weights; float32 masters of 34,843 bfloat16 weights, moments in 8 bits for "
        "34,304, state and update on the CPU"
    )
    assert describe_optimizer(make({})[1]) is None


@pytest.mark.slow
def test_four_ranks_equal_one_process(tmp_path):
    """With rows that do not divide evenly and a rank without any; a resumed rank goes on to the same bits.

    What four ranks saved is loaded into one process. Sums of gradients in another order round an 8-bit code to its
    neighbour now and then, which moves a weight by a part of the learning rate. Frozen weights of a split model may be
    held in bfloat16, to which they are cast as they are gathered anyway.
    """
    saved = tmp_path / "saved"
    alike = on_ranks(4, "train.rank_optimizer:go_on_alike", tmp_path / "ranks", place=str(saved))
    assert alike == [dict.fromkeys(["frozen weights in bfloat16", *KINDS], True)] * 4
    for kind, options in KINDS.items():
        alone, loaded = make(options), make(options)
        take_steps(*alone, range(2))
        wanted, found = parts_of(*alone), parts_of(*loaded) if options else parts_of(*stepped(*loaded))
        assert parts_in(saved / kind).keys() == wanted.keys()
        load_parts(saved / kind, found)
        close = RATE / 10 if "8-bit" in kind else 1e-6
        for name, value in wanted.items():
            within = 1.0 if value.dtype == torch.uint8 else close
            assert (found[name].float() - value.float()).abs().max() <= within, (kind, name)


def stepped(model, optimizer):
    """torch's own AdamW has no state before its first step."""
    take_steps(model, optimizer, [0])
    return model, optimizer
