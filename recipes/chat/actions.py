"""The ``chat`` action of a service process: one model, loaded once, answers streamed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths

#: Tokens a conversation may have here.
CONTEXT = 4096

_loaded: dict[str, Any] = {}


def chat(
    params: dict[str, Any], emit: Callable[[dict[str, Any]], None], paths: StatePaths
) -> dict[str, Any]:
    """Answer a conversation: ``prompt``, ``text`` pieces and ``end`` events.

    Args:
        params: model, messages (role and content), sampling (see ``engine.types.serving``).
        emit: called for every event.
        paths: the state directory.

    Raises:
        BadInput: the conversation is longer than the context.
    """
    began = time.monotonic()
    model = _model(str(params["model"]), paths)
    prompt, stops = render(model, params["messages"])
    tokens = model.tokenize(prompt.encode(), add_bos=False, special=True)
    sampling = dict(params.get("sampling") or {})
    room = model.n_ctx() - len(tokens)
    if room < 1:
        raise BadInput(
            f"the conversation has {len(tokens)} tokens, the context {model.n_ctx()}",
            hint="begin a new conversation",
        )
    emit({"kind": "prompt", "text": prompt})
    asked = time.monotonic()
    first: float | None = None
    pieces: list[str] = []
    finish = None
    seed = sampling.get("seed")
    for part in model.create_completion(
        tokens,
        max_tokens=min(int(sampling.get("max_tokens", 512)), room),
        temperature=float(sampling.get("temperature", 0.7)),
        top_p=float(sampling.get("top_p", 0.95)),
        stop=[*stops, *sampling.get("stop", ())],
        seed=int(seed) if seed is not None else None,
        stream=True,
    ):
        choice = part["choices"][0]
        finish = choice.get("finish_reason") or finish
        if choice["text"]:
            first = first if first is not None else time.monotonic()
            pieces.append(choice["text"])
            emit({"kind": "text", "text": choice["text"]})
    ended = time.monotonic()
    first = first if first is not None else ended
    rate = (len(pieces) - 1) / (ended - first) if len(pieces) > 1 and ended > first else 0.0
    stats = {
        "prompt_tokens": len(tokens),
        "tokens": len(pieces),
        "seconds": round(ended - began, 3),
        "load_s": round(asked - began, 3),
        "first_token_s": round(first - asked, 3),
        "tokens_per_s": round(rate, 2),
        "finish_reason": finish,
    }
    emit({"kind": "end", "text": "".join(pieces), "stats": stats})
    return stats


def close(
    _params: dict[str, Any], _emit: Callable[[dict[str, Any]], None], _paths: StatePaths
) -> None:
    """Free the loaded model."""
    for model in _loaded.values():
        model.close()
    _loaded.clear()


def _model(ref: str, paths: StatePaths) -> Any:
    """The model in llama.cpp; verified each time, loaded once (an adapter over its base)."""
    import os

    from llama_cpp import Llama

    from recipes.serve.llama import whole_gguf
    from recipes.serve.lora import lora_gguf

    location = resolve_model(ref, paths)
    adapter = location if location.base is not None else None
    base = whole_gguf(location.base or location, paths)
    lora = str(lora_gguf(adapter, base, paths)) if adapter is not None else None
    name = f"{base}\0{lora}"
    if name not in _loaded:
        for other in _loaded.values():
            other.close()
        _loaded.clear()
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        _loaded[name] = Llama(
            str(base),
            n_ctx=CONTEXT,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=-1,
            lora_path=lora,
            verbose=False,
        )
    return _loaded[name]


def render(model: Any, messages: list[dict[str, str]]) -> tuple[str, list[str]]:
    """The exact prompt by the model's own template, and the texts that end an answer.

    Raises:
        BadInput: the model has no chat template, or the template refuses the conversation.
    """
    from jinja2.exceptions import TemplateError
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = model.metadata.get("tokenizer.chat_template")
    if not template:
        raise BadInput(
            "the model has no chat template",
            hint="serve it and use /v1/completions, or fine-tune it on chats first",
        )

    def piece(token: int) -> str:
        text = model.detokenize([token], special=True) if token >= 0 else b""
        return str(text.decode("utf-8", "replace"))

    formatter = Jinja2ChatFormatter(
        template, eos_token=piece(model.token_eos()), bos_token=piece(model.token_bos())
    )
    try:
        made = formatter(messages=messages)
    except TemplateError as error:
        raise BadInput(
            "the model's chat template refuses this conversation", why=str(error)
        ) from error
    stop = made.stop if isinstance(made.stop, list) else [made.stop] if made.stop else []
    return made.prompt, [text for text in stop if text]
