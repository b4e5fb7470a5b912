"""Sharing adapters: pinned publishers, fitting bases, plain data only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import IntegrityError, ModelOpsError, Refused
from engine.paths import StatePaths

Machine = Callable[[str], Artifacts]
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512}


def safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def base_folder(root: Path, **changes: object) -> Path:
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    safetensors(root / "model.safetensors")
    return root


def adapter_folder(root: Path) -> Path:
    root.mkdir(parents=True)
    config = {"base_model_name_or_path": "tiny", "peft_type": "LORA"}
    (root / "adapter_config.json").write_text(json.dumps(config))
    safetensors(root / "adapter_model.safetensors")
    return root


@pytest.fixture
def shared(machine: Machine, tmp_path: Path) -> tuple[Artifacts, Artifacts, str]:
    alice, bob = machine("alice"), machine("bob")
    catalogue = str(tmp_path / "catalogue")
    for who in (alice, bob):
        folder = base_folder(tmp_path / f"base-{id(who)}")
        who.add(folder, name="tiny", artifact_type="base", license="mit")
    alice.add(
        adapter_folder(tmp_path / "adapter"),
        name="pirate",
        artifact_type="adapter",
        license="apache-2.0",
        card="# Talks like a pirate\n",
        parents=[("base", "tiny")],
    )
    alice.market_publish(catalogue, "pirate")
    return alice, bob, catalogue


def test_share_and_install(shared: tuple[Artifacts, Artifacts, str]) -> None:
    alice, bob, catalogue = shared
    (entry,) = bob.market_browse(catalogue, "PIRATE")
    assert (entry.base, entry.license, entry.pinned) == ("tiny", "Apache-2.0", False)
    with pytest.raises(Refused, match="not pinned"):
        bob.market_install(catalogue, "pirate")
    bob.market_pin(catalogue, alice.device()["fingerprint"], "Alice")
    view = bob.market_install(catalogue, "pirate")
    assert view.license == "Apache-2.0"
    assert view.parents == (("base", bob.resolve("tiny").manifest),)
    assert bob.verify("pirate", deep=True).ok
    assert bob.market_install(catalogue, "pirate") == view
    (entry,) = bob.market_browse(catalogue)
    assert entry.installed
    assert entry.publisher == "Alice"
    assert bob.market_verify(catalogue, "pirate") == ()


def test_share_and_install_over_a_bucket(
    machine: Callable[[str], Artifacts], bucket: str, tmp_path: Path
) -> None:
    pytest.importorskip("obstore")
    alice, bob = machine("alice"), machine("bob")
    bob.add(base_folder(tmp_path / "base"), name="tiny", artifact_type="base", license="mit")
    alice.add(adapter_folder(tmp_path / "a"), name="pirate", artifact_type="adapter", license="mit")
    alice.market_publish(bucket, "pirate")
    bob.market_browse(bucket)
    bob.market_pin(bucket, alice.device()["fingerprint"])
    bob.market_install(bucket, "pirate")
    assert bob.verify("pirate", deep=True).ok
    assert bob.market_verify(bucket, "pirate") == ()


def test_a_catalogue_is_looked_at_without_a_registry(
    shared: tuple[Artifacts, Artifacts, str], tmp_path: Path
) -> None:
    _, _, url = shared
    stranger = Artifacts(StatePaths(tmp_path / "stranger"))
    (entry,) = stranger.market_browse(url)
    assert (entry.pinned, entry.installed) == (False, False)
    assert stranger.market_card(url, entry.name)
    assert not (tmp_path / "stranger").exists(), "looking makes nothing"


def test_a_base_that_does_not_fit(shared: tuple[Artifacts, Artifacts, str], tmp_path: Path) -> None:
    alice, bob, catalogue = shared
    bob.market_pin(catalogue, alice.device()["fingerprint"])
    bob.add(base_folder(tmp_path / "wide", hidden_size=128), name="wide", artifact_type="base")
    with pytest.raises(Refused, match="hidden_size is 128"):
        bob.market_install(catalogue, "pirate", base="wide")


def test_tampered_blob(shared: tuple[Artifacts, Artifacts, str]) -> None:
    alice, bob, catalogue = shared
    bob.market_pin(catalogue, alice.device()["fingerprint"])
    for blob in (Path(catalogue) / "market" / "blobs").iterdir():
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.unlink()
        blob.write_bytes(data)
    with pytest.raises(IntegrityError, match="not what the publisher signed"):
        bob.market_install(catalogue, "pirate")
    assert len(bob.market_verify(catalogue, "pirate")) == 2


def test_rollback_and_forgery(shared: tuple[Artifacts, Artifacts, str], tmp_path: Path) -> None:
    alice, bob, catalogue = shared
    (index,) = (Path(catalogue) / "market" / "publishers").iterdir()
    old = index.read_bytes()
    folder = adapter_folder(tmp_path / "second")
    alice.add(folder, name="poet", artifact_type="adapter", license="mit")
    alice.market_publish(catalogue, "poet")
    assert len(bob.market_browse(catalogue)) == 2
    new = index.read_bytes()
    index.write_bytes(old)
    with pytest.raises(IntegrityError, match="ROLLBACK"):
        bob.market_browse(catalogue)
    index.write_bytes(new.replace(b'"sig":"', b'"sig":"A', 1))
    with pytest.raises(IntegrityError):
        bob.market_browse(catalogue)


def test_another_key_on_the_shelf(shared: tuple[Artifacts, Artifacts, str]) -> None:
    _, bob, catalogue = shared
    (index,) = (Path(catalogue) / "market" / "publishers").iterdir()
    # Alice's words under Mallory's key id
    index.rename(index.with_name("0" * 64 + ".json"))
    with pytest.raises(IntegrityError, match="did not sign"):
        bob.market_browse(catalogue)


@pytest.mark.parametrize("name", ["model.py", "weights.bin"])
def test_only_plain_data_is_shared(machine: Machine, tmp_path: Path, name: str) -> None:
    alice = machine("alice")
    folder = adapter_folder(tmp_path / "adapter")
    (folder / name).write_bytes(b"\x00\x01binary")
    alice.add(folder, name="odd", artifact_type="adapter", license="mit")
    with pytest.raises(Refused, match="more than plain data"):
        alice.market_publish(str(tmp_path / "c"), "odd")


def test_no_licence_and_no_adapter(machine: Machine, tmp_path: Path) -> None:
    alice = machine("alice")
    alice.add(adapter_folder(tmp_path / "a"), name="free", artifact_type="adapter")
    alice.add(base_folder(tmp_path / "b"), name="whole", artifact_type="model", license="mit")
    for ref in ("free", "whole"):
        with pytest.raises(ModelOpsError):
            alice.market_publish(str(tmp_path / "c"), ref)
