"""Artifacts as files for others: a signed tar, a plain folder, the OCI layout, the hub's cache.

Reading one back takes only members that its signed manifest names, within their signed sizes, and
never unpacks by an archive's own idea of paths.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Conflict, IntegrityError, ModelOpsError, Refused
from engine.registry import canonical, modelsig, trust
from engine.registry.blobs import CHUNK, full_disk
from engine.registry.documents import Manifest, Publish
from engine.registry.layout import FORMAT, MAX_DOCUMENT_BYTES, digest_of
from engine.registry.log import SignedEvent, read_event
from engine.registry.materialize import materialize
from engine.registry.names import check_paths
from engine.registry.publish import Wanted, publish_entries
from engine.registry.sync.arrival import Arrival
from engine.registry.trust import Trust
from engine.supervise.durable import sync_folder
from engine.types.artifacts import ArtifactView

if TYPE_CHECKING:
    from engine.registry import Registry

_ABOUT = "modelops.json"
_MAX_ROOTS = 1000
_SMALL = (_ABOUT, "event.json", "manifest.json", "attest/model.sig", "attest/sbom.cdx.json")
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_OCI_EMPTY = "application/vnd.oci.empty.v1+json"


def export_artifact(registry: Registry, ref: str, target: Path, form: str) -> Path:
    """Write an artifact for others, verified on the way.

    Args:
        registry: the registry.
        ref: the artifact.
        target: a new file (tar, gguf) or a new folder (folder, oci, hf).
        form: tar, folder, oci, hf or gguf.

    Raises:
        Conflict: the target exists.
        BadInput: no such form, or not one GGUF file for gguf.
    """
    forms: dict[str, Callable[[Registry, Manifest, str, Path], None]] = {
        "tar": _tar,
        "folder": _folder,
        "oci": _oci,
        "hf": _hub,
        "gguf": _gguf,
    }
    if form not in forms:
        raise BadInput(f"{form!r} is no form", why=f"known: {', '.join(forms)}")
    if target.exists():
        raise Conflict(f"{target} exists", hint="name a new file or folder")
    view = registry.resolve(ref)
    materialize(registry, registry.row(view.manifest))
    manifest = registry.manifest(view.manifest)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        forms[form](registry, manifest, view.manifest, partial)
        partial.rename(target)
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise full_disk(error, target.parent) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
    return target


def _tar(registry: Registry, manifest: Manifest, identity: str, target: Path) -> None:
    """A deterministic tar: the same artifact gives the same bytes."""
    layout, digest = registry.layout, digest_of(identity)
    row = registry.row(identity)
    about = {
        "format": FORMAT,
        "registry": registry.id,
        "root": registry.trust.fingerprint,
        "manifest": identity,
    }
    version = registry.manifest_event(identity).event.root
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        _member(archive, _ABOUT, canonical.dumps(about))
        for number in range(1, version + 1):
            data = layout.root_document(number).read_bytes()
            _member(archive, f"trust/{number}.root.json", data)
        _member(archive, "event.json", layout.event(row["writer"], row["seq"]).read_bytes())
        _member(archive, "manifest.json", layout.manifest(digest).read_bytes())
        for name in ("model.sig", "sbom.cdx.json"):
            path = layout.attest / digest / name
            if path.exists():
                _member(archive, f"attest/{name}", path.read_bytes())
        for blob in sorted({file.sha256: file.size for file in manifest.files}.items()):
            with open(layout.blob(blob[0]), "rb") as source:
                archive.addfile(_info(f"blobs/{blob[0]}", blob[1]), source)


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    return info


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_info(name, len(data)), io.BytesIO(data))


def _folder(registry: Registry, manifest: Manifest, identity: str, target: Path) -> None:
    """The plain files, with ``model.sig`` for ``model_signing verify key``."""
    for file in manifest.files:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(registry.layout.blob(file.sha256), place)
    kept = registry.layout.attest / digest_of(identity) / "model.sig"
    signature = kept.read_bytes() if kept.exists() else modelsig.bundle(registry, manifest)
    if (target / "model.sig").exists():
        raise Conflict("the artifact has a model.sig of its own", hint="export it as a tar")
    (target / "model.sig").write_bytes(signature)


def _gguf(registry: Registry, manifest: Manifest, identity: str, target: Path) -> None:
    found = [file for file in manifest.files if file.media_type == "application/vnd.gguf"]
    if len(found) != 1:
        raise BadInput(f"{manifest.name} holds {len(found)} GGUF files, not one")
    shutil.copyfile(registry.layout.blob(found[0].sha256), target)


def _hub(registry: Registry, manifest: Manifest, identity: str, target: Path) -> None:
    """The Hugging Face cache layout: ``HF_HUB_CACHE=target`` finds ``modelops/<name>``."""
    revision = digest_of(identity)[:40]
    root = target / f"models--modelops--{manifest.name}"
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    for file in manifest.files:
        blob = root / "blobs" / file.sha256
        if not blob.exists():
            shutil.copyfile(registry.layout.blob(file.sha256), blob)
        link = snapshot / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def _oci(registry: Registry, manifest: Manifest, identity: str, target: Path) -> None:
    """The OCI image layout: ``skopeo copy oci:target ...`` takes it to any registry."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    layers = []
    for file in manifest.files:
        if not (blobs / file.sha256).exists():
            shutil.copyfile(registry.layout.blob(file.sha256), blobs / file.sha256)
        layers.append(
            {
                "mediaType": file.media_type,
                "digest": f"sha256:{file.sha256}",
                "size": file.size,
                "annotations": {"org.opencontainers.image.title": file.path},
            }
        )
    envelope = registry.layout.manifest(digest_of(identity)).read_bytes()
    layers.append(put(envelope, "application/vnd.modelops.manifest.dsse+json"))
    image = {
        "schemaVersion": 2,
        "mediaType": _OCI_MANIFEST,
        "artifactType": f"application/vnd.modelops.{manifest.type}",
        "config": put(b"{}", _OCI_EMPTY),
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.created": manifest.created,
            "org.opencontainers.image.title": manifest.name,
            "org.opencontainers.image.version": manifest.version,
            "org.opencontainers.image.licenses": manifest.license or "NOASSERTION",
            "dev.modelops.manifest": identity,
        },
    }
    data = json.dumps(image, sort_keys=True, separators=(",", ":")).encode()
    tag = {"org.opencontainers.image.ref.name": f"{manifest.name}-{manifest.version}"}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [put(data, _OCI_MANIFEST, annotations=tag)],
    }
    (target / "index.json").write_text(json.dumps(index, sort_keys=True))
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


# -- import ---------------------------------------------------------------------------------------


def import_tar(
    registry: Registry, source: Path, *, name: str | None = None, fingerprint: str | None = None
) -> ArtifactView:
    """Take in an artifact that somebody exported.

    One of this very registry is put back where it was. One of another registry needs that
    registry's root fingerprint; it is published here anew, and names its origin.

    Args:
        registry: the registry.
        source: the tar.
        name: what to call it here.
        fingerprint: the other registry's root (16 digits or more), learnt by another way.

    Raises:
        Refused: another registry without its fingerprint, or a member that is no plain file.
        IntegrityError: anything is not what was signed.
    """
    scratch = registry.layout.staging / f"import-{secrets.token_hex(6)}"
    scratch.mkdir()
    try:
        with open(source, "rb") as file, _opened(file, source) as archive:
            return _Import(registry, archive, scratch, name, fingerprint).run()
    except tarfile.TarError as error:
        raise IntegrityError(f"{source} is refused", why=f"it is no whole tar: {error}") from error
    except OSError as error:
        raise full_disk(error, scratch) from error
    finally:
        shutil.rmtree(scratch)


def _opened(file: io.BufferedReader, source: Path) -> tarfile.TarFile:
    # "r|": a stream, uncompressed only; a compressed bomb is never unpacked
    try:
        return tarfile.open(fileobj=file, mode="r|")
    except tarfile.TarError as error:
        raise BadInput(f"{source} is no export of ours", why=str(error)) from error


class _Import:
    """One tar, read once from front to back."""

    def __init__(
        self,
        registry: Registry,
        archive: tarfile.TarFile,
        scratch: Path,
        name: str | None,
        fingerprint: str | None,
    ) -> None:
        self.registry = registry
        self.archive = archive
        self.scratch = scratch
        self.name = name
        self.fingerprint = (fingerprint or "").replace(" ", "").lower()
        self.small: dict[str, bytes] = {}
        self.roots: list[bytes] = []
        self.came: set[str] = set()

    def run(self) -> ArtifactView:
        manifest: Manifest | None = None
        judge: Trust | None = None
        sizes: dict[str, int] = {}
        for member in self.archive:
            if not member.isreg():
                raise Refused(f"the member {member.name!r} is refused", why="it is no plain file")
            if not member.name.startswith("blobs/"):
                if manifest is not None and not member.name.startswith("attest/"):
                    raise Refused(f"the member {member.name!r} is refused", why="it comes too late")
                self._take_small(member)
                continue
            if manifest is None:
                judge = self._judge()
                manifest = self._manifest(judge)
                sizes = {file.sha256: file.size for file in manifest.files}
            self._take_blob(member, sizes)
        if manifest is None or judge is None:
            judge = self._judge()
            manifest = self._manifest(judge)
        missing = {file.sha256 for file in manifest.files} - self.came
        if missing:
            raise IntegrityError("the archive is refused", why=f"{len(missing)} files are missing")
        return self._adopt(manifest)

    def _take_small(self, member: tarfile.TarInfo) -> None:
        expected = f"trust/{len(self.roots) + 1}.root.json"
        if member.name not in _SMALL and member.name != expected:
            raise Refused(f"the member {member.name!r} is refused", why="no export has it")
        if member.name in self.small or len(self.roots) > _MAX_ROOTS:
            raise Refused(f"the member {member.name!r} is refused", why="it comes twice")
        data = self._read(member, MAX_DOCUMENT_BYTES)
        if member.name == expected:
            self.roots.append(data)
        else:
            self.small[member.name] = data

    def _read(self, member: tarfile.TarInfo, limit: int) -> bytes:
        if member.size > limit:
            raise Refused(
                f"the member {member.name!r} is refused", why=f"it has {member.size} bytes"
            )
        stream = self.archive.extractfile(member)
        return stream.read(limit + 1) if stream else b""

    def _judge(self) -> Trust:
        about = canonical.loads(self.small.get(_ABOUT, b""), "the archive's description")
        own = self.registry.trust.fingerprint
        judge = trust.verify_chain(self.roots, None)
        if judge.fingerprint == own:
            return self.registry.trust
        if not isinstance(about, dict) or about.get("root") != judge.fingerprint:
            raise IntegrityError(
                "the archive is refused", why="its roots are not the ones it names"
            )
        if len(self.fingerprint) < 16 or not judge.fingerprint.startswith(self.fingerprint):
            raise Refused(
                "the archive comes from another registry",
                why=f"its root is {judge.fingerprint[:32]}, "
                + (f"you gave {self.fingerprint[:32]}" if self.fingerprint else "none was given"),
                hint="ask its maker what `keys show` prints as root, then --root FINGERPRINT",
            )
        return judge

    def _manifest(self, judge: Trust) -> Manifest:
        data = self.small.get("manifest.json", b"")
        digest = hashlib.sha256(data).hexdigest()
        manifest = self.registry.check_manifest(data, digest, judge, of=judge.current.registry)[0]
        event = read_event(self.small.get("event.json", b""), judge, "the archive's event")
        _check_published(event, f"sha256:{digest}")
        check_paths(file.path for file in manifest.files)
        return manifest

    def _take_blob(self, member: tarfile.TarInfo, sizes: dict[str, int]) -> None:
        digest = member.name.removeprefix("blobs/")
        if digest not in sizes or digest in self.came:
            raise Refused(
                f"the member {member.name!r} is refused", why="the signed manifest does not name it"
            )
        if member.size != sizes[digest]:
            raise IntegrityError(
                f"the member {member.name!r} is refused",
                why=f"it has {member.size} bytes, signed are {sizes[digest]}",
            )
        stream = self.archive.extractfile(member)
        assert stream is not None  # it is a plain file
        chunks = iter(lambda: stream.read(CHUNK), b"")
        with Arrival(self.scratch / digest, member.size, member.name, lambda count: None) as into:
            found = into.take(chunks).finish()
        if found != digest:
            raise IntegrityError(
                f"the member {member.name!r} is refused", why="its bytes are not what was signed"
            )
        self.came.add(digest)

    def _adopt(self, manifest: Manifest) -> ArtifactView:
        registry = self.registry
        identity = "sha256:" + hashlib.sha256(self.small["manifest.json"]).hexdigest()
        if manifest.registry == registry.id:
            try:
                row = registry.row(identity)
            except ModelOpsError as error:
                raise Refused(
                    "this artifact is not in this registry's log (any more)",
                    why=str(error),
                    hint="pull it from a remote that has it",
                ) from error
            self._blobs()
            self._attest(digest_of(identity))
            (registry.layout.state / "partial" / digest_of(identity)).unlink(missing_ok=True)
            return registry.resolve(row["manifest"])
        self._blobs()
        wanted = Wanted(
            name=self.name or manifest.name,
            artifact_type=manifest.type,
            parents=(("imported_from", identity),),
            metrics={key: float(value) for key, value in manifest.metrics.items()},
            card=manifest.card,
            license=manifest.license,
            run={**manifest.run, "imported_registry": manifest.registry},
            tags=tuple(manifest.tags),
            key=f"import/{identity}/{self.name or manifest.name}",
        )
        wanted.check()
        return registry.resolve(
            publish_entries(registry, wanted, list(manifest.files), manifest.scan)
        )

    def _blobs(self) -> None:
        for digest in self.came:
            self.registry.blobs.take(self.scratch / digest, move=True)

    def _attest(self, digest: str) -> None:
        folder = self.registry.layout.attest / digest
        folder.mkdir(exist_ok=True)
        for name in ("model.sig", "sbom.cdx.json"):
            data = self.small.get(f"attest/{name}")
            if data is not None and not (folder / name).exists():
                (folder / name).write_bytes(data)


def _check_published(signed: SignedEvent, identity: str) -> None:
    body = signed.event.body
    if not signed.signers or not isinstance(body, Publish) or body.manifest != identity:
        raise IntegrityError(
            "the archive is refused", why="its event does not publish its manifest, or is revoked"
        )
