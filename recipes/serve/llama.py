"""The llama.cpp server: which file it loads and how it is started."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, MissingPart, Refused
from engine.recipe.check import Problem
from engine.serving.launch import Launch, LaunchRequest

if TYPE_CHECKING:
    from engine.models import ModelLocation
    from engine.paths import StatePaths
    from recipes.serve.schema import ServeSpec

#: Settings that the front decides.
_OURS = {
    "model",
    "model_alias",
    "host",
    "port",
    "api_key",
    "interrupt_requests",
    "ssl_keyfile",
    "ssl_certfile",
    "n_ctx",
    "lora_path",
    "embedding",
    "hf_model_repo_id",
    "root_path",
}
#: Modules the server needs beside the binding (the ``server`` extra of llama-cpp-python).
_SERVER_PARTS = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")


def check(spec: ServeSpec, location: ModelLocation | None, paths: StatePaths) -> list[Problem]:
    """Problems with the settings and the model that can be seen without loading anything."""
    problems = [Problem((), error.what, error.hint) for error in _missing_parts()]
    known = settings_names()
    for name in spec.llama_cpp:
        if name in _OURS:
            problems.append(
                Problem(("llama_cpp", name), f"{name} is decided by the deployment", "leave it out")
            )
        elif known and name not in known:
            problems.append(
                Problem(
                    ("llama_cpp", name),
                    f"{name} is no setting of the llama.cpp server",
                    _nearest(name, known),
                )
            )
    if len(spec.adapters) > 1:
        problems.append(
            Problem(
                ("adapters",),
                "llama.cpp serves one adapter at a time",
                "merge them, or start one deployment for each",
            )
        )
    return problems


def _nearest(name: str, known: frozenset[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known - _OURS, n=3)
    return f"did you mean {' or '.join(near)}?" if near else "see the server's documentation"


def _missing_parts() -> list[MissingPart]:
    missing = [name for name in ("llama_cpp", *_SERVER_PARTS) if not importlib.util.find_spec(name)]
    if not missing:
        return []
    return [
        MissingPart(
            f"the llama.cpp server lacks {', '.join(missing)}",
            hint="pip install 'llama-cpp-python[server]'",
        )
    ]


@cache
def settings_names() -> frozenset[str]:
    """Names of the server's settings, read from its source: importing it loads the library."""
    import ast

    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return frozenset()
    source = Path(spec.origin).parent / "server" / "settings.py"
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name in ("ModelSettings", "ServerSettings"):
            names |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return frozenset(names)


def launch(request: LaunchRequest) -> Launch:
    """Make the GGUF where needed and say how the server is started.

    Raises:
        MissingPart: the server's packages are not installed.
        Refused: the adapter is of another base.
    """
    for missing in _missing_parts():
        raise missing
    if len(request.adapters) > 1:
        raise BadInput("llama.cpp serves one adapter at a time")
    model, lora = files(request)
    settings: dict[str, Any] = {
        "n_threads": request.threads,
        "n_threads_batch": request.threads,
        "n_gpu_layers": -1 if request.device == "cuda" else 0,
        "verbose": False,
        **request.options,
        "model": str(model),
        "model_alias": request.name,
        "n_ctx": request.context,
        "embedding": request.task == "embed",
    }
    if lora is not None:
        settings["lora_path"] = str(lora)
    config = request.work_dir / f"server-{request.port}.json"
    _write_private(
        config,
        {
            "host": "127.0.0.1",
            "port": request.port,
            "api_key": request.key,
            # the default cuts a stream short whenever another request arrives
            "interrupt_requests": False,
            "models": [settings],
        },
    )
    return Launch(
        argv=(sys.executable, "-P", "-m", "llama_cpp.server", "--config_file", str(config)),
        port=request.port,
        key=request.key,
        # two: the next request is at the server when it ends the one before
        parallel=2,
        # ``PORT`` and ``HOST`` of our environment would win over the file
        env={"PORT": str(request.port), "HOST": "127.0.0.1", "OMP_WAIT_POLICY": "passive"},
    )


def _write_private(path: Path, value: dict[str, Any]) -> None:
    for old in path.parent.glob("server-*.json"):
        old.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file)


def files(request: LaunchRequest) -> tuple[Path, Path | None]:
    """The GGUF to load, and a LoRA in GGUF form to put on it.

    A served adapter (``model = "my-adapter@prod"``) is its base with the adapter over it. A Hugging
    Face folder is converted once and kept in the cache.
    """
    from recipes.serve.lora import lora_gguf

    location = request.location
    adapter = next(iter(request.adapters.values()), None)
    if location.kind == "adapter":
        if adapter is not None:
            raise Refused(
                "an adapter can't be served over an adapter",
                hint="merge the first one into its base, then serve the merged model",
            )
        location, adapter = location.base or location, location
    base = whole_gguf(location, request.paths)
    if adapter is None:
        return base, None
    return base, lora_gguf(adapter, base, request.paths)


def whole_gguf(location: ModelLocation, paths: StatePaths) -> Path:
    """A GGUF of a whole model: its own file, or one converted once."""
    if location.kind == "gguf":
        return location.path
    from recipes.gguf.convert import convert
    from recipes.loading import merged_folder

    folder = merged_folder(location, paths) if location.base is not None else location.path
    target = paths.cache / "gguf" / f"{fingerprint(folder)}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        convert(folder, target, name=location.name)
    return target


def fingerprint(folder: Path) -> str:
    """Names a model folder: contents of its small files, size and time of the others."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        info = file.stat()
        digest.update(f"{file.name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        if info.st_size < 1 << 20:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:24]
