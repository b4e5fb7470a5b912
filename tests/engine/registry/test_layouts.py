"""Layouts of others are taken in by their digests, and lead nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import BadInput, IntegrityError, ModelOpsError, Refused
from tests.engine.registry.conftest import make_folder

Machine = Callable[[str], Artifacts]


@pytest.fixture
def oci(machine: Machine, tmp_path: Path) -> Path:
    maker = machine("maker")
    maker.add(make_folder(tmp_path / "s"), name="bot", artifact_type="adapter", license="mit")
    return maker.export("bot", tmp_path / "oci", "oci")


@pytest.fixture
def hub(machine: Machine, tmp_path: Path) -> Path:
    maker = machine("maker")
    maker.add(make_folder(tmp_path / "s"), name="bot", artifact_type="model")
    return maker.export("bot", tmp_path / "hub", "hf")


def image_of(layout: Path) -> tuple[Path, dict[str, Any]]:
    index = json.loads((layout / "index.json").read_text())
    path = layout / "blobs" / "sha256" / index["manifests"][0]["digest"][7:]
    return path, json.loads(path.read_text())


def put_image(layout: Path, image: dict[str, Any]) -> None:
    """An attacker may rewrite the whole chain of digests: there is no signature in a layout."""
    data = json.dumps(image).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))


def test_an_oci_layout_comes_in(oci: Path, machine: Machine) -> None:
    taker = machine("taker")
    view = taker.import_from(oci)
    assert (view.name, view.artifact_type, view.license) == ("bot", "adapter", "MIT")
    assert view.run["imported_from"] == "oci"
    assert view.run["imported_digest"].startswith("sha256:")
    assert (taker.path(view.id) / "sub" / "weights.txt").read_text() == "hello" * 1000
    assert taker.verify(view.id, deep=True).ok
    assert taker.import_from(oci).id == view.id, "twice is once"
    assert taker.import_from(oci, name="other").name == "other"
    again = taker.export(view.id, oci.parent / "again", "oci")
    files = [layer for layer in image_of(again)[1]["layers"] if "annotations" in layer]
    assert files == [layer for layer in image_of(oci)[1]["layers"] if "annotations" in layer]


def test_a_hub_cache_comes_in(hub: Path, machine: Machine) -> None:
    taker = machine("taker")
    view = taker.import_from(hub)
    assert (view.name, view.artifact_type) == ("bot", "model")
    assert view.run["imported_repository"] == "modelops/bot"
    assert (taker.path(view.id) / "sub" / "weights.txt").read_text() == "hello" * 1000
    repo = hub / "models--modelops--bot"
    (snapshot,) = (repo / "snapshots").iterdir()
    assert taker.import_from(repo).id == view.id
    assert taker.import_from(snapshot).id == view.id


def test_small_files_of_the_hub_are_checked_by_gits_digest(hub: Path, machine: Machine) -> None:
    (snapshot,) = (hub / "models--modelops--bot" / "snapshots").iterdir()
    config = snapshot / "config.json"
    blobs = hub / "models--modelops--bot" / "blobs"
    name = hashlib.sha1(b"blob 2\0{}").hexdigest()
    (blobs / name).write_bytes(b"{}")
    config.unlink()
    config.symlink_to(f"../../blobs/{name}")
    taker = machine("taker")
    assert taker.import_from(hub).files == 2
    (blobs / name).write_bytes(b"[]")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        taker.import_from(hub, name="tampered")


def _tamper(layout: Path) -> None:
    _, image = image_of(layout)
    blob = layout / "blobs" / "sha256" / image["layers"][1]["digest"][7:]
    blob.write_bytes(b"jello" * 1000)


def _truncate(layout: Path) -> None:
    _, image = image_of(layout)
    blob = layout / "blobs" / "sha256" / image["layers"][1]["digest"][7:]
    blob.write_bytes(blob.read_bytes()[:-1])


def _swap_image(layout: Path) -> None:
    path, image = image_of(layout)
    image["layers"].pop()
    path.write_text(json.dumps(image))


def _retitle(name: str) -> Callable[[Path], None]:
    def change(layout: Path) -> None:
        _, image = image_of(layout)
        image["layers"][0]["annotations"]["org.opencontainers.image.title"] = name
        put_image(layout, image)

    return change


def _redirect(digest: Any) -> Callable[[Path], None]:
    def change(layout: Path) -> None:
        _, image = image_of(layout)
        image["layers"][0]["digest"] = digest
        put_image(layout, image)

    return change


def _link(layout: Path) -> None:
    _, image = image_of(layout)
    blob = layout / "blobs" / "sha256" / image["layers"][0]["digest"][7:]
    blob.rename(layout / "elsewhere")
    blob.symlink_to(layout / "elsewhere")


def _pipe(layout: Path) -> None:
    _, image = image_of(layout)
    blob = layout / "blobs" / "sha256" / image["layers"][0]["digest"][7:]
    blob.unlink()
    os.mkfifo(blob)


def _pickled(layout: Path) -> None:
    _, image = image_of(layout)
    data = pickle.dumps(os.system)
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    image["layers"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    put_image(layout, image)


def _deep(layout: Path) -> None:
    (layout / "index.json").write_text("[" * 100_000)


def _bomb(layout: Path) -> None:
    with open(layout / "index.json", "wb") as file:
        file.truncate(1 << 30)


def _two(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] *= 2
    (layout / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (_tamper, IntegrityError),
        (_truncate, IntegrityError),
        (_swap_image, IntegrityError),
        (_retitle("../../evil"), ModelOpsError),
        (_retitle("/etc/passwd"), ModelOpsError),
        (_retitle("SUB/weights.txt"), ModelOpsError),
        (_retitle("a\u202eb"), ModelOpsError),
        (_redirect("sha256:../../../secret"), Refused),
        (_redirect("md5:" + "0" * 32), Refused),
        (_redirect("0" * 64), Refused),
        (_redirect(None), Refused),
        (_link, Refused),
        (_pipe, Refused),
        (_pickled, Refused),
        (_deep, BadInput),
        (_bomb, Refused),
        (_two, BadInput),
    ],
)
def test_a_hostile_oci_layout_is_refused(
    oci: Path, machine: Machine, attack: Callable[[Path], None], error: type[ModelOpsError]
) -> None:
    taker = machine("taker")
    attack(oci)
    with pytest.raises(error) as refused:
        taker.import_from(oci)
    assert refused.value.why or refused.value.hint
    assert taker.list() == ()
    assert not list(taker.registry.layout.staging.iterdir()), "nothing is left behind"


def test_links_of_a_hub_cache_lead_to_its_blobs_only(
    hub: Path, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("precious")
    repo = hub / "models--modelops--bot"
    (snapshot,) = (repo / "snapshots").iterdir()
    taker = machine("taker")
    for target in (
        str(tmp_path / "secret"),
        "../../../../secret",
        "../../blobs/../../../secret",
        "../../blobs/id_rsa",
    ):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)
        with pytest.raises(Refused, match=r"config\.json"):
            taker.import_from(hub)
    (snapshot / "config.json").unlink()
    (snapshot / "sub2").symlink_to(tmp_path)
    with pytest.raises(Refused, match="link to a folder"):
        taker.import_from(hub)
    (snapshot / "sub2").unlink()
    shutil.move(repo / "blobs", tmp_path / "blobs")
    (repo / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(Refused, match="a folder of the layout is a link"):
        taker.import_from(hub)
    assert taker.list() == ()


def test_what_is_no_layout_says_what_to_do(hub: Path, machine: Machine, tmp_path: Path) -> None:
    taker = machine("taker")
    with pytest.raises(BadInput, match="no layout of one model") as refused:
        taker.import_from(make_folder(tmp_path / "plain"))
    assert "models add" in str(refused.value.hint)
    shutil.copytree(hub / "models--modelops--bot", hub / "models--modelops--two", symlinks=True)
    with pytest.raises(BadInput, match="no layout of one model") as refused:
        taker.import_from(hub)
    assert "models--modelops--two" in str(refused.value.why)
