"""Attacks by whoever holds the remote: each is refused with its reason and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import IntegrityError, ModelOpsError, NotFound, Refused
from engine.paths import StatePaths
from engine.registry import canonical, envelope
from engine.registry.documents import Checkpoint, WriterHead, payload_of
from engine.registry.keys import SigningPair, new_device_key
from engine.registry.sync import pull, remote
from engine.registry.sync.transport import Folder, check_key
from tests.engine.registry.conftest import make_folder

Machine = Callable[[str], Artifacts]


class World:
    """Alice publishes, Bob has cloned; the remote is a folder that the attacker holds."""

    def __init__(self, machine: Machine, tmp_path: Path) -> None:
        self.tmp = tmp_path
        self.machine = machine
        self.root = tmp_path / "remote"
        self.alice, self.bob = machine("alice"), machine("bob")
        self.alice.add(make_folder(tmp_path / "s0"), name="bot", artifact_type="model")
        self.alice.promote("bot", "dev")
        self.alice.remote_add("origin", str(self.root))
        self.alice.push()
        self.bob.clone(str(self.root))

    def publish(self, text: str) -> None:
        folder = make_folder(self.tmp / f"s-{text}", text)
        self.alice.add(folder, name="bot", artifact_type="model")
        self.alice.push()

    def save(self, name: str) -> Path:
        kept = self.tmp / name
        shutil.copytree(self.root, kept)
        return kept

    def restore(self, kept: Path) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(kept, self.root)

    def refused(self, reason: str, error: type[ModelOpsError] = IntegrityError) -> None:
        before = snapshot(self.bob)
        with pytest.raises(error, match=reason):
            self.bob.pull()
        assert snapshot(self.bob) == before
        assert self.bob.fsck(deep=True).ok

    def checkpoint(self) -> dict:
        data = (self.root / "checkpoint.json").read_bytes()
        found = json.loads(envelope.parse(data, remote.CHECKPOINT_TYPE, "c").payload)
        assert isinstance(found, dict)
        return found

    def forge(self, key: SigningPair | None = None, **changes: object) -> None:
        value = {**self.checkpoint(), **changes}
        key = key or self.alice.registry.device
        sealed = envelope.seal(remote.CHECKPOINT_TYPE, canonical.dumps(value), [key.signer])
        self.write("checkpoint.json", sealed.to_bytes())

    def write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def newest(self, kind: str) -> Path:
        return max((self.root / kind).rglob("*.json"), key=lambda p: p.name)


def snapshot(artifacts: Artifacts) -> dict[str, bytes]:
    """Every file of a registry but what is derived."""
    root = artifacts.registry.layout.root
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and not p.name.startswith(("index.db", "stat.db")) and "blobs" not in p.parts
    }


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> World:
    return World(machine, tmp_path)


def test_the_world_is_sound(world: World) -> None:
    world.publish("two")
    assert world.bob.pull().blobs == 1
    assert world.bob.pull().events == 0


def test_the_difference_in_words(world: World) -> None:
    assert world.bob.sync_diff() == ()
    world.publish("two")
    (change,) = world.bob.sync_diff()
    assert change.direction == "pull"
    assert change.text.startswith("published bot@2 as ")
    world.alice.promote("bot@2", "dev")
    (change,) = world.alice.sync_diff()
    assert change.direction == "push"
    assert "dev moves from" in change.text
    assert world.bob.resolve("bot").version == "1"


def test_rolled_back(world: World) -> None:
    old = world.save("old")
    world.publish("two")
    world.bob.pull()
    world.restore(old)
    world.refused("ROLLBACK.*older state")


def test_checkpoint_gone(world: World) -> None:
    (world.root / "checkpoint.json").unlink()
    world.refused("ROLLBACK.*is gone")


def test_dropped_writer(world: World) -> None:
    world.publish("two")
    world.bob.pull()
    world.forge(version=world.checkpoint()["version"] + 1, writers={})
    world.refused("ROLLBACK.*lost events of the writer")


def test_rewritten_head(world: World) -> None:
    writers = world.checkpoint()["writers"]
    forged = {w: {**h, "head": "0" * 64} for w, h in writers.items()}
    world.forge(version=world.checkpoint()["version"] + 1, writers=forged)
    world.refused("FORK")


def test_same_version_other_content(world: World) -> None:
    earlier = datetime.now(UTC) - timedelta(hours=1)
    world.forge(created=earlier.strftime("%Y-%m-%dT%H:%M:%SZ"))
    world.refused("FORK.*another checkpoint")


def test_unknown_key(world: World, tmp_path: Path) -> None:
    world.forge(new_device_key(tmp_path / "m"), version=9)
    world.refused("is no device key of the trust root")


def test_expired(world: World) -> None:
    world.forge(version=3, expires="2020-01-01T00:00:00Z")
    world.refused("expired")
    world.bob.pull(allow_expired=True)


def test_from_the_future(world: World) -> None:
    world.forge(version=3, created="2999-01-01T00:00:00Z", expires="2999-02-01T00:00:00Z")
    world.refused("future")


def test_foreign_registry(world: World, tmp_path: Path) -> None:
    other = world.machine("other")
    other.add(make_folder(tmp_path / "x"), name="x", artifact_type="model")
    other.remote_add("origin", str(tmp_path / "elsewhere"))
    other.push()
    world.restore(tmp_path / "elsewhere")
    world.refused("another registry", Refused)


def test_foreign_checkpoint(world: World) -> None:
    world.forge(version=3, registry="0" * 32)
    world.refused("belongs to")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("log", "event"), ("manifests", "manifest"), ("trust", "FORK: trust root")],
)
def test_edited_documents(world: World, kind: str, reason: str) -> None:
    known = set((world.root / kind).rglob("*.json"))
    world.publish("two")
    new = set((world.root / kind).rglob("*.json")) - known
    path = new.pop() if new else world.newest(kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))
    world.refused(reason)


@pytest.mark.parametrize("kind", ["log", "manifests"])
def test_missing_documents(world: World, kind: str) -> None:
    known = set((world.root / kind).rglob("*.json"))
    world.publish("two")
    for path in set((world.root / kind).rglob("*.json")) - known:
        path.unlink()
    world.refused("incomplete")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data + b"x", "more than"),
        (lambda data: b"X" + data[1:], "tampered with or damaged"),
        (lambda data: b"", "cut short"),
    ],
)
def test_blobs(world: World, change: Callable[[bytes], bytes], reason: str) -> None:
    known = set((world.root / "blobs").rglob("*"))
    world.publish("two")
    (path,) = set((world.root / "blobs").rglob("*")) - known
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))
    world.refused(reason)
    path.unlink()
    path.symlink_to("/etc/hostname")
    world.refused("link or a special file", Refused)


def test_missing_blob(world: World) -> None:
    known = set((world.root / "blobs").rglob("*"))
    world.publish("two")
    for path in set((world.root / "blobs").rglob("*")) - known:
        path.unlink()
    world.refused("has no blobs", NotFound)


def test_swapped_manifests(world: World) -> None:
    first = world.newest("manifests").read_bytes()
    known = set((world.root / "manifests").rglob("*.json"))
    world.publish("two")
    (path,) = set((world.root / "manifests").rglob("*.json")) - known
    path.unlink()
    path.write_bytes(first)
    world.refused("changed or swapped")


def test_oversize_document(world: World) -> None:
    world.write("checkpoint.json", b" " * (17 << 20))
    world.refused("larger than")


def test_deep_document(world: World) -> None:
    world.write("checkpoint.json", b"[" * 100_000)
    world.refused("refused")


def test_revoked_key_of_a_machine(world: World, tmp_path: Path) -> None:
    world.alice.add_key(world.bob.device()["public"], "device", "bob")
    world.alice.push()
    world.bob.pull()
    mallory = world.bob.registry.device  # Bob's key is stolen
    world.bob.add(make_folder(tmp_path / "b"), name="bobs", artifact_type="model")
    world.bob.push()
    world.alice.pull()
    writer = world.bob.registry.writer
    world.alice.revoke_key(mallory.id[:16], "stolen", last_good={writer: 0})
    world.alice.push()
    assert [v.name for v in world.alice.list()] == ["bot"]
    world.bob.pull()
    with pytest.raises(Refused, match="no longer"):
        world.bob.push()
    carol = world.machine("carol")
    carol.clone(str(world.root))
    assert [v.name for v in carol.list()] == ["bot"]
    refused = [e for e in carol.audit(event_type="publish") if e.verdict != "ok"]
    assert [e.verdict for e in refused] == ["refused: its key was revoked"]
    # a checkpoint by the stolen key
    world.forge(mallory, version=world.checkpoint()["version"] + 1)
    with pytest.raises(IntegrityError, match="was revoked"):
        carol.pull()
    # and an honest push heals it
    world.publish("three")
    assert carol.pull().events == 1


def test_fast_forward_is_refused(world: World) -> None:
    """A stolen key sets the version so high that honest ones would look like rollbacks."""
    world.forge(version=2**52)
    world.refused("beyond what its events allow")


def test_fast_forward_clock_and_recovery(world: World, tmp_path: Path) -> None:
    """A stolen device key writes a clock that nobody could follow; revoking it heals the log."""
    from engine.registry import log
    from engine.registry.documents import TagChange
    from engine.registry.index import read_heads

    world.alice.add_key(world.bob.device()["public"], "device", "bob")
    world.alice.push()
    world.bob.pull()
    bob = world.bob.registry
    body = TagChange(name="bot", tag="x", manifest=None)
    head = read_heads(bob.db()).get(bob.writer, log.EMPTY)
    signed, data = log.seal_event(bob.trust, bob.writer, head, log.MAX_CLOCK + 1, body, bob.device)
    world.write(remote.event_key(bob.writer, 1), data)
    version = world.checkpoint()["version"]
    writers = {**world.checkpoint()["writers"]}
    writers[bob.writer] = {"seq": 1, "head": signed.digest}
    world.forge(bob.device, version=version + 1, writers=writers)
    with pytest.raises(IntegrityError, match="lock everybody else out"):
        world.alice.pull()
    world.alice.revoke_key(bob.device.id[:16], "stolen", last_good={})
    world.publish("after")
    carol = world.machine("carol")
    carol.clone(str(world.root))
    assert carol.resolve("bot").version == "2"
    assert carol.fsck(deep=True).ok


def test_cloned_writer(world: World, tmp_path: Path) -> None:
    """Two copies of one state directory that write under one id: a fork, named."""
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "alice", copy)
    twin = Artifacts(StatePaths(copy))
    record = json.loads(twin.registry.layout.writer.read_bytes())
    status = twin.registry.layout.log.stat()
    record["place"] |= {"device": status.st_dev, "inode": status.st_ino}
    twin.registry.layout.writer.write_text(json.dumps(record))
    assert twin.registry.writer == world.alice.registry.writer
    twin.add(make_folder(tmp_path / "t", "twin"), name="twin", artifact_type="model")
    world.publish("two")
    with pytest.raises(IntegrityError, match=r"FORK.*two histories"):
        twin.push()
    assert world.bob.pull().events == 1


def test_fingerprint_at_clone(world: World) -> None:
    carol = world.machine("carol")
    with pytest.raises(Refused, match="not the registry you asked for"):
        carol.clone(str(world.root), fingerprint="0" * 64)
    assert not carol.exists


@pytest.mark.parametrize("key", ["x//y", "../x", "/x", "x/", "a/../b", "a/./b", "a b", "a\x00"])
def test_keys_that_alias(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelOpsError):
        check_key(key)
    with pytest.raises(ModelOpsError):
        Folder(tmp_path).create(key, b"x")


def test_a_push_never_names_what_it_has_not(world: World, tmp_path: Path) -> None:
    """Pulled in part, pushed elsewhere: the other place would be incomplete."""
    world.publish("two")
    carol = world.machine("carol")
    carol.clone(str(world.root), only="nothing")
    assert all(view.partial for view in carol.list())
    with pytest.raises(NotFound, match="in part only"):
        carol.path("bot")
    world.alice.add_key(carol.device()["public"], "device", "carol")
    world.alice.push()
    carol.pull(only="nothing")
    carol.remote_add("second", str(tmp_path / "second"))
    with pytest.raises(Refused, match="neither here nor there"):
        carol.push("second")
    with pytest.raises(Refused, match="pull it whole"):
        carol.promote("bot", "staging")
    carol.pull()
    assert not any(view.partial for view in carol.list())
    carol.push("second")


def test_gc_against_push(world: World, tmp_path: Path) -> None:
    """A collection during a push takes nothing that the push needs."""
    folder = make_folder(tmp_path / "g", "garbage")
    world.alice.add(folder, name="gone", artifact_type="model")
    world.alice.delete("gone")
    steps = []

    def collect(step: object) -> None:
        steps.append(world.alice.gc(dry_run=False, grace_s=0))

    world.alice.add(make_folder(tmp_path / "k", "kept"), name="kept", artifact_type="model")
    world.alice.push(progress=collect)
    assert sum(report.blobs for report in steps) == 1
    world.bob.pull()
    assert world.bob.verify("kept", deep=True).ok


def test_dry_runs_change_nothing(world: World) -> None:
    world.alice.add(make_folder(world.tmp / "d", "d"), name="bot", artifact_type="model")
    files = {p: p.read_bytes() for p in world.root.rglob("*.json")}
    assert world.alice.push(dry_run=True).events == 1
    assert {p: p.read_bytes() for p in world.root.rglob("*.json")} == files
    world.alice.push()
    before = snapshot(world.bob)
    assert world.bob.pull(dry_run=True).blobs == 1
    assert snapshot(world.bob) == before
    assert world.bob.sync_status().pull_events == 1


def test_repair_from_a_remote(world: World) -> None:
    blob = max(world.bob.registry.layout.blobs.iterdir(), key=lambda p: p.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert not world.bob.fsck(deep=True).ok
    assert world.bob.fsck(deep=True, repair_from="origin").ok
    assert world.bob.verify("bot", deep=True).ok


def test_checkpoint_is_a_document() -> None:
    head = WriterHead(seq=1, head="0" * 64)
    checkpoint = Checkpoint(
        registry="0" * 32, version=1, created="2026-01-01T00:00:00Z",
        expires="2026-02-01T00:00:00Z", root=1, writers={"0" * 16: head},
    )  # fmt: skip
    assert b'"schema":"modelops.checkpoint/1"' in payload_of(checkpoint)
    assert pull.digest_bytes(b"") == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
