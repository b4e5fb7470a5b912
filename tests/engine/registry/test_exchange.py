"""Exports others can use, imports that believe nothing but signatures."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import BadInput, IntegrityError, ModelOpsError, Refused
from engine.registry import Registry
from tests.engine.registry.conftest import make_folder

Machine = Callable[[str], Artifacts]


def exported(artifacts: Artifacts, tmp_path: Path) -> Path:
    artifacts.add(make_folder(tmp_path / "source"), name="bot", artifact_type="model")
    return artifacts.export("bot", tmp_path / "bot.tar")


def test_export_import_export_is_identical(artifacts: Artifacts, tmp_path: Path) -> None:
    first = exported(artifacts, tmp_path)
    for blob in artifacts.registry.layout.blobs.iterdir():
        blob.unlink()
    assert not artifacts.verify("bot").ok
    artifacts.import_tar(first)
    assert artifacts.verify("bot", deep=True).ok
    second = artifacts.export("bot", tmp_path / "again.tar")
    assert first.read_bytes() == second.read_bytes()


def test_another_registry_needs_the_fingerprint(machine: Machine, tmp_path: Path) -> None:
    alice, bob = machine("alice"), machine("bob")
    tar = exported(alice, tmp_path)
    with pytest.raises(Refused, match="another registry"):
        bob.import_tar(tar)
    with pytest.raises(Refused, match="another registry"):
        bob.import_tar(tar, root="0" * 64)
    view = bob.import_tar(tar, root=alice.device()["root"], name="theirs")
    assert view.parents == (("imported_from", alice.resolve("bot").manifest),)
    assert (bob.path("theirs") / "sub" / "weights.txt").read_text() == "hello" * 1000
    assert bob.import_tar(tar, root=alice.device()["root"], name="theirs") == view


def edited(tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> Path:
    members = []
    with tarfile.open(tar) as archive:
        for info in archive:
            stream = archive.extractfile(info)
            members.append((info, stream.read() if stream else b""))
    change(members)
    out = tar.with_name("edited.tar")
    with tarfile.open(out, "w") as archive:
        for info, data in members:
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out


def named(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def index_of(members: list[tuple[tarfile.TarInfo, bytes]], prefix: str) -> int:
    return next(i for i, (info, _) in enumerate(members) if info.name.startswith(prefix))


ATTACKS: dict[str, tuple[Callable[[list[tuple[tarfile.TarInfo, bytes]]], object], str]] = {
    "additional member": (lambda m: m.append((named("blobs/../../evil"), b"x")), "does not name"),
    "absolute member": (lambda m: m.insert(0, (named("/etc/passwd"), b"x")), "no export has it"),
    "symbolic link": (
        lambda m: m.insert(0, (named("blobs", type=tarfile.SYMTYPE, linkname="/tmp"), b"")),
        "no plain file",
    ),
    "hard link": (
        lambda m: m.append((named("blobs/x", type=tarfile.LNKTYPE, linkname="manifest.json"), b"")),
        "no plain file",
    ),
    "pipe": (lambda m: m.append((named("p", type=tarfile.FIFOTYPE), b"")), "no plain file"),
    "changed blob": (
        lambda m: m.__setitem__(
            i := index_of(m, "blobs/"), (m[i][0], b"X" * len(m[i][1]))
        ),
        "not what was signed",
    ),
    "longer blob": (
        lambda m: m.__setitem__(i := index_of(m, "blobs/"), (m[i][0], m[i][1] + b"X")),
        "signed are",
    ),
    "missing blob": (lambda m: m.pop(index_of(m, "blobs/")), "missing"),
    "twice": (lambda m: m.append(m[index_of(m, "blobs/")]), "does not name"),
    "changed manifest": (
        lambda m: m.__setitem__(
            i := index_of(m, "manifest.json"), (m[i][0], m[i][1].replace(b"A", b"B", 1))
        ),
        "refused",
    ),
    "no event": (lambda m: m.pop(index_of(m, "event.json")), "not JSON"),
    "other event": (
        lambda m: m.__setitem__(
            index_of(m, "event.json"), (m[index_of(m, "event.json")][0], m[0][1])
        ),
        "envelope",
    ),
    "manifest too late": (
        lambda m: m.append(m.pop(index_of(m, "manifest.json"))),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_edited_archives_are_refused(artifacts: Artifacts, tmp_path: Path, attack: str) -> None:
    tar = exported(artifacts, tmp_path)
    change, reason = ATTACKS[attack]
    before = sorted(p.name for p in artifacts.registry.layout.blobs.iterdir())
    with pytest.raises(ModelOpsError) as caught:
        artifacts.import_tar(edited(tar, change))
    assert reason in str(caught.value)
    assert isinstance(caught.value, (Refused, IntegrityError))
    assert sorted(p.name for p in artifacts.registry.layout.blobs.iterdir()) == before
    assert not list(artifacts.registry.layout.staging.iterdir())


def test_compressed_bombs_are_not_unpacked(artifacts: Artifacts, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as archive:
        archive.addfile(named("blobs/x", size=1 << 20), io.BytesIO(bytes(1 << 20)))
    with pytest.raises(BadInput):
        artifacts.import_tar(bomb)


def test_oci_layout(artifacts: Artifacts, tmp_path: Path) -> None:
    exported(artifacts, tmp_path)
    layout = artifacts.export("bot", tmp_path / "oci", "oci")
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    image = json.loads((layout / "blobs" / "sha256" / digest).read_text())
    import hashlib

    for layer in [*image["layers"], image["config"]]:
        data = (layout / "blobs" / "sha256" / layer["digest"][7:]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == layer["digest"][7:]
        assert len(data) == layer["size"]
    titles = [x["annotations"]["org.opencontainers.image.title"] for x in image["layers"][:-1]]
    assert titles == ["config.json", "sub/weights.txt"]


def test_skopeo_copies_the_layout(artifacts: Artifacts, tmp_path: Path) -> None:
    import shutil

    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed: apt-get install skopeo")
    exported(artifacts, tmp_path)
    layout = artifacts.export("bot", tmp_path / "oci", "oci")
    subprocess.run(
        ["skopeo", "copy", f"oci:{layout}:bot-1", f"oci:{tmp_path / 'copy'}:bot"], check=True
    )


def test_hub_layout(artifacts: Artifacts, tmp_path: Path) -> None:
    exported(artifacts, tmp_path)
    cache = artifacts.export("bot", tmp_path / "hub", "hf")
    repo = cache / "models--modelops--bot"
    snapshot = repo / "snapshots" / (repo / "refs" / "main").read_text()
    assert (snapshot / "sub" / "weights.txt").read_text() == "hello" * 1000
    assert (snapshot / "config.json").is_symlink()


def signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_model_signing_verifies_ours(artifacts: Artifacts, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="pip install model-signing pyopenssl")
    exported(artifacts, tmp_path)
    folder = artifacts.export("bot", tmp_path / "plain", "folder")
    pem = tmp_path / "ec.pub"
    pem.write_text(artifacts.attest_public_pem())
    check = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", pem)
    done = signing(*check)
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts.verify_folder(folder, folder / "model.sig", pem) == 2
    (folder / "config.json").write_text("[]")
    assert signing(*check).returncode != 0
    with pytest.raises(IntegrityError, match="changed"):
        artifacts.verify_folder(folder, folder / "model.sig", pem)


def test_we_verify_theirs(artifacts: Artifacts, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="pip install model-signing pyopenssl")
    from engine.registry.modelsig import public_pem

    folder = make_folder(tmp_path / "model")
    keys = tmp_path / "keys"
    pem = tmp_path / "ec.pub"
    pem.write_bytes(public_pem(keys))
    signature = tmp_path / "theirs.sig"
    done = signing(
        "sign", "key", folder, "--signature", signature, "--private_key", keys / "attest.pem"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts.verify_folder(folder, signature, pem) == 2
    (folder / "additional").write_text("x")
    with pytest.raises(IntegrityError, match="additional"):
        artifacts.verify_folder(folder, signature, pem)
    (folder / "additional").unlink()
    other = tmp_path / "other.pub"
    other.write_bytes(public_pem(tmp_path / "others"))
    with pytest.raises(IntegrityError, match="did not sign"):
        artifacts.verify_folder(folder, signature, other)


def test_gguf_alone(registry: Registry, artifacts: Artifacts, tmp_path: Path) -> None:
    exported(artifacts, tmp_path)
    with pytest.raises(BadInput, match="0 GGUF"):
        artifacts.export("bot", tmp_path / "x.gguf", "gguf")
    assert not list(tmp_path.glob(".x.gguf*"))
