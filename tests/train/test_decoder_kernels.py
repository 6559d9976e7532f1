"""Other kernels of the decoder: close to torch's own, compiled once for rows of all lengths, and refused by name."""

import copy
from contextlib import ExitStack

import pytest
import torch
from accelerate import Accelerator
from made_groups import make_groups, make_policy
from short_runs import TINY
from torch._dynamo.testing import CompileCounterWithBackend

from mmhicra.config import ModelConfig
from mmhicra.config.loading import build_config, load_config
from mmhicra.core.errors import ConfigError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.guard import LIMITS
from mmhicra.train.loop.assembly import assemble
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.vlm.decoder_kernels import compile_layers, use_float8, use_kernels, use_liger
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy

ROWS = ([(1, [5, 9]), (0, [3])], [(0, [2, 2, 6])], [(0, [7, 1]), (0, [4])])
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def load(folder, family, **options):
    model = load_policy(ModelConfig(path=str(folder), family=family, **options))
    torch.manual_seed(0)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batches(model):
    return [pack(split_groups(make_groups(model, shapes), 10**6)) for shapes in ROWS]


def update(model, batch, **options):
    """Log-probs and gradients."""
    stats = make_policy(model, **options)(batch)
    (stats.logprobs * batch.advantages + 0.1 * stats.entropy).sum().backward()
    gradients = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    model.model.zero_grad(set_to_none=True)
    return stats.logprobs.detach(), gradients


def assert_close(found, wanted, tolerance):
    torch.testing.assert_close(found[0], wanted[0], atol=tolerance, rtol=0)
    assert found[1].keys() == wanted[1].keys()
    largest = max(gradient.norm() for gradient in wanted[1].values())
    for name, gradient in wanted[1].items():
        error = (found[1][name] - gradient).norm() / max(gradient.norm(), 1e-2 * largest)
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.slow
def test_compiled_layers_are_compiled_once_for_all_lengths(tiny_model_folder):
    """With adapters and checkpointing; traced as for any backend, and run without one. Layers share their graphs."""
    options = {"checkpointing": "full", "checkpointing_layers": 1, "lora": {"rank": 4, "alpha": 4}}
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl", **options)
    rows = batches(model)
    wanted = [update(model, row) for row in rows]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compile_layers(model.model, model.family, backend=counter)
    frames = []
    for row, plain in zip(rows, wanted, strict=True):
        assert_close(update(model, row), plain, 1e-5)
        frames.append(counter.frame_count)
    assert frames[0] > 0
    assert frames[0] == frames[2], "a row of another length is compiled anew"
    model.model.eval()
    before = counter.frame_count
    with torch.no_grad():
        make_policy(model)(rows[0])
    assert counter.frame_count == before, "the engine's forward pass is compiled"


@pytest.mark.slow
def test_inductor_is_within_its_tolerance(tiny_model_folder):
    model = load(tiny_model_folder("qwen3_vl"), "qwen3_vl")
    row = batches(model)[0]
    wanted = update(model, row)
    torch._dynamo.reset()
    try:
        compile_layers(model.model, model.family)
    except ConfigError as refusal:
        pytest.skip(str(refusal))
    assert_close(update(model, row), wanted, 1e-5)


def test_without_a_compiler_compiling_is_refused(monkeypatch, tiny_model_folder):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def missing():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl")
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        compile_layers(model.model, model.family)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_ligers_kernels_are_in_one_model_only(family, tiny_model_folder):
    pytest.importorskip("liger_kernel")
    model, other = (load(tiny_model_folder(family), family) for _ in range(2))
    use_liger(model.model, model.family)
    names = [[type(m).__name__ for m in each.model.modules()] for each in (model, other)]
    assert names[0] == names[1]
    decoder = model.family.language_model(model.model)
    patched = {module._get_name() for module in decoder.modules() if "forward" in vars(module)}
    assert patched == {"LigerRMSNorm", "LigerSwiGLUMLP"}
    norms = 5 if model.family.normed_heads else 3
    assert sum("forward" in vars(module) for module in decoder.modules()) == norms * len(decoder.layers) + 1
    assert not any("forward" in vars(module) for module in other.model.modules())
    twin = copy.deepcopy(decoder)  # a reference
    assert all(vars(m)["forward"].__self__ is m for m in twin.modules() if "forward" in vars(m))


def test_a_decoder_of_other_layers_is_refused(tiny_model_folder):
    pytest.importorskip("liger_kernel")
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl")
    model.family.language_model(model.model).config.hidden_act = "gelu"
    with pytest.raises(ConfigError, match="which the decoder of the family qwen2_5_vl is not made of: set it to torch"):
        use_liger(model.model, model.family)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kernels": "liger"}, "model.kernels: liger needs a CUDA GPU, this is cpu: set it to torch"),
        ({"float8": True, "precision": "bf16"}, "model.float8 needs a CUDA GPU of compute capability 8.9 or newer"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(options, line, tiny_model_folder):
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl")
    with pytest.raises(ConfigError, match=line):
        use_kernels(model.model, model.family, ModelConfig(**options), torch.device("cpu"))


@pytest.mark.parametrize("field", ["kernels=liger", "float8=true"])
def test_a_run_asks_for_them(field, tmp_path):
    """On the CPU it is told that it cannot have them."""
    overrides = [f"model.{field}", "model.precision=bf16", f"run_folder={tmp_path}", "log.trackers=[]"]
    folder = RunFolder(tmp_path)
    with (
        ExitStack() as stack,
        pytest.raises(ConfigError, match=rf"model\.{field.partition('=')[0]}.* needs a CUDA GPU"),
    ):
        assemble(load_config(TINY, overrides), folder, Accelerator(cpu=True), Terminal(quiet=True), stack)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"compile": True, "checkpointing": "selective"}, "set checkpointing to none or full"),
        ({"compile": True, "checkpointing": "auto"}, "set checkpointing to none or full"),
        ({"compile": True, "kernels": "liger"}, "replace the same kernels: drop one"),
        ({"compile": True, "shard": True}, "compile and shard have not been made to work together: drop one"),
        ({"compile": True, "quantize": "nf4", "lora": {}}, "compile and quantize: nf4 have not been made"),
        ({"float8": True}, "precision is fp32: set it to bf16"),
        ({"float8": True, "precision": "bf16", "lora": {}}, "float8 and adapters have not been made"),
        ({"float8": True, "precision": "bf16", "shard": True}, "float8 and shard have not been made"),
    ],
)
def test_contradictions_are_refused_at_load(section, line):
    with pytest.raises(ConfigError, match=line):
        build_config({"model": section})


def test_float8_layers_round_within_their_tolerance(tiny_model_folder):
    """Emulated: rounded to float8, multiplied in float32. Rows of any length, also none that divides by 16."""
    pytest.importorskip("torchao")
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl")
    rows = batches(model)
    wanted = [update(model, row, precision="bf16") for row in rows]
    names = {name for name, _ in model.model.named_parameters()}
    use_float8(model.model, model.family, emulate=True)
    changed = [name for name, m in model.model.named_modules() if type(m).__name__ == "Float8Linear"]
    assert len(changed) == 7 * len(model.family.language_model(model.model).layers)
    assert all("language_model.layers" in name for name in changed)
    assert {name for name, _ in model.model.named_parameters()} == names
    for row, (logprobs, gradients) in zip(rows, wanted, strict=True):
        found, others = update(model, row, precision="bf16")
        assert 1.01 < (found - logprobs).abs().exp().mean() < LIMITS["float8"][1]
        flat, reference = (torch.cat([g.flatten() for g in each.values()]) for each in (others, gradients))
        assert torch.nn.functional.cosine_similarity(flat, reference, dim=0) > 0.8


def test_compiled_rows_that_devices_share_are_refused():
    with pytest.raises(
        ConfigError, match="model.compile and parallel.sequence .2. have not been made to work together"
    ):
        build_config({"model": {"compile": True}, "parallel": {"sequence": 2}})


@CUDA
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_liger_equals_torch_on_a_gpu(family, tiny_model_folder):
    pytest.importorskip("liger_kernel")
    model = load(tiny_model_folder(family), family)
    model.model.cuda()
    row = batches(model)[0].to(torch.device("cuda"))
    wanted = update(model, row, attention="dense")
    use_kernels(model.model, model.family, ModelConfig(kernels="liger"), torch.device("cuda"))
    assert_close(update(model, row, attention="dense"), wanted, 1e-3)


@CUDA
def test_float8_runs_on_a_gpu(tiny_model_folder):
    pytest.importorskip("torchao")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU of compute capability 8.9")
    model = load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl", precision="bf16")
    model.model.cuda()
    row = batches(model)[0].to(torch.device("cuda"))
    wanted, _ = update(model, row, precision="bf16")
    use_kernels(model.model, model.family, ModelConfig(float8=True, precision="bf16"), torch.device("cuda"))
    found, gradients = update(model, row, precision="bf16")
    assert (found - wanted).abs().exp().mean() < LIMITS["float8"][1]
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
