"""vLLM as a backend that answers prompts: the round trip of an export, through vLLM itself.

Its engine runs in this process, on token ids, without compiled graphs and with a cache for one
short conversation: nothing here is meant to be fast.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from protocol import Tell, WorkerError  # type: ignore[import-not-found]

#: Bytes of its cache of keys and values; a proof's prompts are short.
_CACHE = 256 << 20


def quantize(_request: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """Refuse: a server makes no files."""
    raise WorkerError("vLLM quantizes nothing", hint='set backend = "gptqmodel"')


def load(_folder: Path, _request: dict[str, Any]) -> Any:
    """Its models are not torch modules that could be measured."""
    raise WorkerError("vLLM's models can only answer, not be measured")


def answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Greedy answers to ``request["prompts"]`` by the model in ``request["folder"]``."""
    prompts: list[list[int]] = request["prompts"]
    count = int(request["count"])
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    tell({"phase": "loading the result with vLLM"})
    from vllm import LLM, SamplingParams, TokensPrompt, __version__

    try:
        model = LLM(
            model=request["folder"],
            dtype=request["dtype"],
            enforce_eager=True,
            seed=0,
            trust_remote_code=False,
            max_num_seqs=1,
            max_model_len=max(len(p) for p in prompts) + count,
            **_memory(request),
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise WorkerError(
            "vLLM does not load the export",
            why=lines[-1] if lines else type(error).__name__,
            hint=f"it is vLLM {__version__} on {request['device']}",
        ) from error
    settings = SamplingParams(
        temperature=0.0, max_tokens=count, stop_token_ids=request["stops"], detokenize=False
    )
    tell({"phase": "asking vLLM"})
    began = time.perf_counter()
    found = model.generate(
        [TokensPrompt(prompt_token_ids=p) for p in prompts], settings, use_tqdm=False
    )
    seconds = time.perf_counter() - began
    answers = [list(output.outputs[0].token_ids) for output in found]
    return {
        "answers": answers,
        "tokens_per_s": sum(len(a) for a in answers) / max(seconds, 1e-9),
        "version": __version__,
    }


def _memory(request: dict[str, Any]) -> dict[str, Any]:
    """On a CPU the cache's size; on a GPU the part of the card that weights and cache may take."""
    if request["device"] == "cpu":
        return {"kv_cache_memory_bytes": _CACHE}
    return {"gpu_memory_utilization": 0.6}
