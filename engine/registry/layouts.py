"""Taking in what others made: the OCI image layout, and the Hugging Face cache.

Neither carries a trust root, so nobody's signature can be believed: every byte is checked against
the digests of the layout, and it is this machine that signs. A tar of ours keeps its signatures.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, IntegrityError, Refused
from engine.registry.blobs import CHUNK, full_disk, open_plain
from engine.registry.layout import MAX_DOCUMENT_BYTES, MAX_FILES
from engine.registry.names import check_paths
from engine.registry.sync.arrival import Arrival

if TYPE_CHECKING:
    from engine.registry import Registry
    from engine.types.artifacts import ArtifactView

_TITLE = "org.opencontainers.image.title"
_OURS = "application/vnd.modelops."
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Item:
    """A file of a layout."""

    name: str
    """Its path in the artifact."""
    path: Path
    digest: str | None
    """sha256 (64 digits) or git's (40) of its bytes; None: the layout names none."""
    size: int | None = None


@dataclass(frozen=True)
class Found:
    """What a layout holds."""

    name: str
    artifact_type: str
    items: tuple[Item, ...]
    run: Mapping[str, str]
    license: str | None = None


def import_layout(registry: Registry, source: Path, *, name: str | None = None) -> ArtifactView:
    """Publish what a layout holds, every file checked against the layout's own digests.

    Args:
        registry: the registry.
        source: an OCI layout, a Hugging Face cache, one repository of it, or a snapshot.
        name: what to call it here; by default what the layout calls it.

    Raises:
        BadInput: it is no such layout, or holds several artifacts.
        IntegrityError: a file is not what the layout names.
        Refused: pickles, links that lead out of the layout, hostile names.
    """
    found = _oci(source) if (source / "oci-layout").is_file() else _hub(source)
    check_paths(item.name for item in found.items)
    digest = hashlib.sha256(repr([(i.name, i.digest) for i in found.items]).encode()).hexdigest()
    with _scratch(registry) as scratch:
        files = {item.name: _take(item, scratch / str(n)) for n, item in enumerate(found.items)}
        return registry.publish(
            name=name or found.name,
            artifact_type=found.artifact_type,
            files=files,
            license=found.license,
            run=found.run,
            key=f"import/{digest}/{name or found.name}",
            hidden=False,
            move=True,
        )


@contextmanager
def _scratch(registry: Registry) -> Iterator[Path]:
    folder = registry.layout.staging / f"import-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    except OSError as error:
        raise full_disk(error, folder) from error
    finally:
        shutil.rmtree(folder)


def _take(item: Item, target: Path) -> Path:
    """Copy one file, hashed on the way."""
    with os.fdopen(open_plain(item.path), "rb") as source:
        size = os.fstat(source.fileno()).st_size
        if item.size is not None and size != item.size:
            why = f"it has {size} bytes, the layout says {item.size}"
            raise IntegrityError(f"{item.name} is refused", why=why)
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)

        def chunks() -> Iterator[bytes]:
            while chunk := source.read(CHUNK):
                git.update(chunk)
                yield chunk

        with Arrival(target, size, item.name, lambda count: None) as into:
            digest = into.take(chunks()).finish()
    if item.digest not in (None, digest, git.hexdigest()):
        why = "its bytes are not what the layout names"
        raise IntegrityError(f"{item.name} is refused", why=why)
    return target


# -- OCI ------------------------------------------------------------------------------------------


def _oci(source: Path) -> Found:
    index = _json(source / "index.json")
    images = index.get("manifests")
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else 0
        raise BadInput(
            f"{source} holds {count} images, not one",
            hint="copy one of them: skopeo copy oci:DIR:TAG oci:NEW:TAG",
        )
    image = _json(*_blob(source, images[0]))
    layers = image.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_FILES:
        raise BadInput(f"{source} is no image of files", why="its manifest lists no layers")
    items = []
    for layer in layers:
        path, digest, size = _blob(source, layer)
        title = _annotations(layer).get(_TITLE)
        if isinstance(title, str):
            items.append(Item(title, path, digest, size))
    if not items:
        raise BadInput(
            f"{source} is no image of files",
            why="none of its layers has a name: it is a container's, or an archive's",
        )
    about = _annotations(image)
    kind = str(image.get("artifactType", ""))
    license_ = about.get("org.opencontainers.image.licenses")
    return Found(
        name=str(about.get(_TITLE) or source.absolute().name),
        artifact_type=kind.removeprefix(_OURS) if kind.startswith(_OURS) else _type_of(items),
        items=tuple(items),
        run={"imported_from": "oci", "imported_digest": str(images[0]["digest"])},
        license=None if license_ in (None, "NOASSERTION") else str(license_),
    )


def _blob(source: Path, descriptor: Any) -> tuple[Path, str, int]:
    """Where a descriptor's bytes are; only sha256, and nothing but a plain name of a blob."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    size = descriptor.get("size") if isinstance(descriptor, dict) else None
    hex_ = str(digest).removeprefix("sha256:")
    if not _SHA256.fullmatch(hex_) or digest == hex_ or type(size) is not int or size < 0:
        raise Refused(f"{source} is refused", why=f"{str(digest)[:100]!r} is no sha256 descriptor")
    return source / "blobs" / "sha256" / hex_, hex_, size


def _annotations(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("annotations")
    return found if isinstance(found, dict) else {}


def _json(path: Path, digest: str | None = None, size: int | None = None) -> dict[str, Any]:
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing", why="the layout names it") from error
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Refused(f"{path} is refused", why=f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
    if digest is not None and (hashlib.sha256(data).hexdigest(), len(data)) != (digest, size):
        raise IntegrityError(f"{path} is refused", why="its bytes are not what the layout names")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON", why=str(error)[:200]) from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} is no description of an image")
    return found


# -- Hugging Face ---------------------------------------------------------------------------------


def _hub(source: Path) -> Found:
    snapshot = _snapshot(source)
    repo = snapshot.parent.parent
    for folder in (repo, repo / "blobs", repo / "snapshots", snapshot):
        if folder.is_symlink():
            raise Refused(f"{folder} is refused", why="a folder of the layout is a link")
    items = []
    for here, folders, files in os.walk(snapshot):
        folders.sort()
        for linked in folders:
            if (Path(here) / linked).is_symlink():
                raise Refused(f"{Path(here) / linked} is refused", why="it is a link to a folder")
        items += [_linked(repo, snapshot, Path(here) / name) for name in sorted(files)]
    if not items or len(items) > MAX_FILES:
        raise BadInput(f"{snapshot} holds {len(items)} files", why=f"1 to {MAX_FILES} are taken")
    owner, _, name = repo.name.removeprefix("models--").partition("--")
    return Found(
        name=name or owner,
        artifact_type=_type_of(items),
        items=tuple(items),
        run={
            "imported_from": "huggingface",
            "imported_repository": f"{owner}/{name}" if name else owner,
            "imported_revision": snapshot.name,
        },
    )


def _snapshot(source: Path) -> Path:
    """The one snapshot that is meant: of a cache, of a repository in it, or itself."""
    if source.parent.name == "snapshots":
        return source.absolute()
    repos = [source] if (source / "snapshots").is_dir() else sorted(source.glob("models--*"))
    if len(repos) != 1:
        several = f"it holds {len(repos)} models: {', '.join(r.name for r in repos[:5])}"
        raise BadInput(
            f"{source} is no layout of one model",
            why=several if repos else "neither OCI's (oci-layout) nor Hugging Face's (models--*)",
            hint="name one of them" if repos else "plain files: modelops-tui models add FOLDER",
        )
    snapshots = {path.name: path for path in (repos[0] / "snapshots").iterdir() if path.is_dir()}
    main = repos[0] / "refs" / "main"
    wanted = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    if wanted in snapshots:
        return snapshots[wanted].absolute()
    if len(snapshots) != 1:
        raise BadInput(
            f"{repos[0]} holds {len(snapshots)} snapshots, and refs/main names none of them",
            hint="name the snapshot's folder",
        )
    return next(iter(snapshots.values())).absolute()


def _linked(repo: Path, snapshot: Path, path: Path) -> Item:
    """A file of a snapshot: plain, or a link to a blob of the same repository and nowhere else."""
    name = path.relative_to(snapshot).as_posix()
    if not path.is_symlink():
        return Item(name, path, None)
    target = Path(os.path.normpath(path.parent / os.readlink(path)))
    if target.parent != repo / "blobs":
        why = f"it is a link to {os.readlink(path)[:200]}, no blob of {repo.name}"
        raise Refused(f"{name} is refused", why=why)
    if not (_SHA256.fullmatch(target.name) or _GIT.fullmatch(target.name)):
        why = f"its blob is called {target.name[:100]!r}, which is no digest"
        raise Refused(f"{name} is refused", why=why)
    return Item(name, target, target.name)


def _type_of(items: list[Item]) -> str:
    return "adapter" if any(item.name == "adapter_config.json" for item in items) else "model"
