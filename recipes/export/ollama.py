"""A Modelfile for Ollama: the GGUF beside it, the source's stop tokens, nothing invented."""

from __future__ import annotations

import json
from pathlib import Path


def modelfile(gguf_name: str, source: Path) -> str:
    """The text of a ``Modelfile`` for ``gguf_name``.

    Ollama reads the chat template from the GGUF itself; stop tokens and sampling come from the
    source's ``generation_config.json``.
    """
    lines = [f"FROM ./{gguf_name}"]
    path = source / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for ours, theirs in (
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("repetition_penalty", "repeat_penalty"),
    ):
        if settings.get(ours) is not None and settings.get("do_sample", False):
            lines.append(f"PARAMETER {theirs} {settings[ours]}")
    lines += [f"PARAMETER stop {json.dumps(token)}" for token in _stop_texts(source, settings)]
    return "\n".join(lines) + "\n"


def _stop_texts(source: Path, settings: dict[str, object]) -> list[str]:
    tokenizer = source / "tokenizer.json"
    stop = settings.get("eos_token_id")
    if not tokenizer.is_file() or stop is None:
        return []
    wanted = set(stop) if isinstance(stop, list) else {stop}
    added = json.loads(tokenizer.read_text(encoding="utf-8")).get("added_tokens", [])
    return [t["content"] for t in added if t["id"] in wanted]
