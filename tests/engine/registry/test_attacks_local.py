"""Attacks on the files of a registry: each is refused, with the reason."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import BadInput, Conflict, IntegrityError, ModelOpsError, Refused
from engine.paths import StatePaths
from engine.registry import Registry, blobs, canonical, envelope
from engine.registry.documents import PAYLOAD, Event, Manifest, parse
from engine.registry.keys import SigningPair, device_key, new_device_key
from engine.registry.log import EVENT_TYPE
from engine.registry.names import check_paths
from engine.registry.store import MANIFEST_TYPE
from tests.engine.registry.conftest import make_folder
from tests.support.tampering import write_over


@pytest.fixture
def bot(registry: Registry, folder: Path) -> Registry:
    registry.publish(name="bot", artifact_type="model", files=folder)
    registry.promote("bot", "dev")
    return registry


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    write_over(path, change(path.read_bytes()))


def some_blob(registry: Registry) -> Path:
    return max(registry.layout.blobs.iterdir(), key=lambda p: p.stat().st_size)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip, "not the ones that were signed"),
        (lambda data: data[:-1], "signed are"),
        (lambda data: data + b"x", "signed are"),
        (lambda data: b"", "signed are"),
    ],
)
def test_blobs(bot: Registry, change: Callable[[bytes], bytes], reason: str) -> None:
    bot.materialize("bot")
    rewrite(some_blob(bot), change)
    with pytest.raises(IntegrityError, match=reason):
        bot.materialize("bot")
    assert not bot.verify("bot").ok
    assert not bot.verify("bot", deep=True).ok


def test_a_blob_that_keeps_its_times(bot: Registry) -> None:
    """The cache would believe a forged mtime; ctime can't be forged, and deep never asks it."""
    bot.materialize("bot")
    path = some_blob(bot)
    times = path.stat()
    rewrite(path, flip)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not bot.verify("bot").ok
    assert not bot.verify("bot", deep=True).ok


@pytest.mark.parametrize("kind", ["missing", "link", "pipe", "folder"])
def test_blobs_that_are_no_files(bot: Registry, kind: str, tmp_path: Path) -> None:
    path = some_blob(bot)
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ModelOpsError):
        bot.materialize("bot")
    assert not bot.verify("bot").ok


def test_links_of_a_folder_are_put_right(bot: Registry, tmp_path: Path) -> None:
    folder = bot.materialize("bot")
    (tmp_path / "evil").write_text("evil")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "evil")
    (folder / "modeling.py").write_text("import os")
    again = bot.materialize("bot")
    assert (again / "config.json").read_text() == "{}"
    assert not (again / "modeling.py").exists()


def manifest_path(registry: Registry, ref: str = "bot") -> Path:
    return registry.layout.manifest(registry.row(ref)["manifest"][7:])


def resealed(
    registry: Registry, data: bytes, change: Callable[[dict], None], key: SigningPair
) -> bytes:
    outer = json.loads(data)
    payload = json.loads(base64.b64decode(outer["payload"]))
    change(payload)
    kind = outer["payloadType"]
    return envelope.seal(kind, canonical.dumps(payload), [key.signer]).to_bytes()


def test_swapped_manifest(bot: Registry, tmp_path: Path) -> None:
    bot.publish(name="other", artifact_type="model", files=make_folder(tmp_path / "o", "bye"))
    rewrite(manifest_path(bot), lambda _: manifest_path(bot, "other").read_bytes())
    with pytest.raises(IntegrityError, match="changed or swapped"):
        bot.materialize("bot")


def test_index_that_points_elsewhere(bot: Registry, tmp_path: Path) -> None:
    other = bot.publish(
        name="other", artifact_type="model", files=make_folder(tmp_path / "o", "bye")
    )
    db = bot.db()
    db.execute("update stages set manifest=? where name='bot'", (other.manifest,))
    with pytest.raises(IntegrityError, match="does not agree with the signed log"):
        bot.materialize("bot@dev")
    assert [f.kind for f in Artifacts(bot.paths).fsck().faults] == ["index"]
    assert Artifacts(bot.paths).fsck(repair=True).ok
    assert Registry.open(bot.paths).resolve("bot@dev").name == "bot"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e["body"].update(name="evil"), "key|signature"),
        (lambda e: e.update(seq=9), "key|signature"),
    ],
)
def test_event_signed_by_a_stranger(
    bot: Registry, tmp_path: Path, change: Callable[[dict], None], reason: str
) -> None:
    stranger = new_device_key(tmp_path / "stranger")
    path = bot.layout.event(bot.writer, 1)
    rewrite(path, lambda data: resealed(bot, data, change, stranger))
    with pytest.raises(IntegrityError, match=reason):
        bot.rebuild_index()
    report = Artifacts(bot.paths).fsck()
    assert not report.ok


def test_edited_event(bot: Registry) -> None:
    path = bot.layout.event(bot.writer, 1)
    rewrite(path, lambda data: data.replace(b"e", b"f", 1))
    with pytest.raises(IntegrityError):
        bot.materialize("bot")
    assert {f.kind for f in Artifacts(bot.paths).fsck().faults} >= {"event"}


def test_event_in_anothers_place(bot: Registry) -> None:
    one, two = bot.layout.event(bot.writer, 1), bot.layout.event(bot.writer, 2)
    data = one.read_bytes()
    rewrite(one, lambda _: two.read_bytes())
    rewrite(two, lambda _: data)
    with pytest.raises(IntegrityError, match="sequence number"):
        bot.rebuild_index()


def test_lost_end_of_the_log(bot: Registry) -> None:
    bot.layout.event(bot.writer, 2).unlink()
    with pytest.raises(IntegrityError, match="lost events"):
        Registry.open(bot.paths).list()


def test_broken_chain(bot: Registry, folder: Path) -> None:
    """The owner of the key itself rewrites history: the hash of the next event gives it away."""
    path = bot.layout.event(bot.writer, 1)
    change: Callable[[dict], None] = lambda e: e.update(who="somebody@else")  # noqa: E731
    rewrite(path, lambda data: resealed(bot, data, change, bot.device))
    with pytest.raises(IntegrityError, match="chain of hashes"):
        bot.rebuild_index()


def test_payload_confusion(bot: Registry) -> None:
    """A rightly signed event is no manifest, and a manifest is no event."""
    event = bot.layout.event(bot.writer, 1).read_bytes()
    with pytest.raises(IntegrityError, match="not a 'application/vnd"):
        bot.check_manifest(event, hashlib.sha256(event).hexdigest())
    payload = envelope.parse(event, EVENT_TYPE, "event").payload
    confused = envelope.seal(MANIFEST_TYPE, payload, [bot.device.signer]).to_bytes()
    with pytest.raises(IntegrityError):
        bot.check_manifest(confused, hashlib.sha256(confused).hexdigest())


def test_key_in_the_envelope_is_not_believed(bot: Registry, tmp_path: Path) -> None:
    stranger = new_device_key(tmp_path / "stranger")
    data = manifest_path(bot).read_bytes()
    forged = resealed(bot, data, lambda m: m.update(name="evil"), stranger)
    with pytest.raises(IntegrityError, match="not in the trust root"):
        bot.check_manifest(forged, hashlib.sha256(forged).hexdigest())
    outer = json.loads(forged)
    outer["signatures"][0]["public"] = base64.b64encode(stranger.public).decode()
    with pytest.raises(IntegrityError, match="fields other than"):
        envelope.parse(canonical.dumps(outer), MANIFEST_TYPE, "manifest")


def test_one_key_is_counted_once(bot: Registry) -> None:
    data = envelope.seal("t", b"{}", [bot.device.signer, bot.device.signer]).to_bytes()
    with pytest.raises(IntegrityError, match="signs twice"):
        envelope.parse(data, "t", "document")


def test_foreign_manifest(bot: Registry) -> None:
    data = manifest_path(bot).read_bytes()
    foreign = resealed(bot, data, lambda m: m.update(registry="0" * 32), bot.device)
    with pytest.raises(IntegrityError, match="belongs to the registry"):
        bot.check_manifest(foreign, hashlib.sha256(foreign).hexdigest())


GOOD = b'{"a":1,"b":[true,null,"x"]}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":2}', "duplicate key"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":Infinity}', "Infinity"),
        (b'{"a":1.5}', "not an integer"),
        (b'{"a":1e2}', "not an integer"),
        (b'{"a": 1}', "canonical"),
        (b'{"b":1,"a":2}', "canonical"),
        (b'{"a":"\\u0041"}', "canonical"),
        (b'{"a":-0}', "canonical"),
        (b'\xef\xbb\xbf{"a":1}', "JSON"),
        (b'{"a":"\\ud800"}', "canonical"),
        (b'{"a":9007199254740992}', "2\\^53"),
        (b'{"a":' + b"9" * 5000 + b"}", "2\\^53|JSON"),
        (b"[" * 40 + b"]" * 40, "deeper"),
        (b"[" * 200_000, "JSON|deeper"),
        (b'{"a":1}\n', "canonical"),
        (b'{"a":"\xff"}', "JSON"),
        (b" " * (17 << 20), "limit"),
        (b"", "JSON"),
    ],
)
def test_strict_json(data: bytes, reason: str) -> None:
    assert canonical.loads(GOOD, "document") == {"a": 1, "b": [True, None, "x"]}
    with pytest.raises(IntegrityError, match=reason):
        canonical.loads(data, "document")


@pytest.mark.parametrize("model", [Manifest, Event])
def test_unknown_fields(bot: Registry, model: type) -> None:
    kind = PAYLOAD.format(model.__name__.lower())
    path = manifest_path(bot) if model is Manifest else bot.layout.event(bot.writer, 1)
    payload = json.loads(envelope.parse(path.read_bytes(), kind, "d").payload)
    parse(model, canonical.dumps(payload), "document")
    for change in ({"additional": 1}, {"schema": "modelops.other/1"}, {"registry": 5}):
        with pytest.raises(IntegrityError):
            parse(model, canonical.dumps({**payload, **change}), "document")


@pytest.mark.parametrize(
    "path",
    [
        "../evil", "a/../../evil", "/etc/passwd", "a//b", "./a", "a/.", "C:/x", "a\\b", "",
        "a\x00b", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\u200bb", "dir. /x", "a.", " a", "con",
        "sub/NUL.txt", "x" * 256, "/".join("d" * 40), "\ud800", "a\u2028b",
    ],
)  # fmt: skip
def test_hostile_paths(path: str) -> None:
    with pytest.raises(Refused):
        check_paths([path])


@pytest.mark.parametrize(
    ("one", "two"),
    [("a.txt", "A.txt"), ("\u00e9", "e\u0301"), ("\ufb01le", "file"), ("d/x", "D/y"), ("a", "a/b"),
     ("stra\u00dfe", "strasse")],
)  # fmt: skip
def test_names_that_collide(one: str, two: str) -> None:
    check_paths([one])
    check_paths([two])
    with pytest.raises(Refused):
        check_paths([one, two])


@pytest.mark.parametrize(
    "name", ["../x", "a b", "a/b", "", "x" * 129, "a\x1b", "[red]x[/]", ".a", "a..b"]
)
def test_names_of_artifacts(registry: Registry, folder: Path, name: str) -> None:
    with pytest.raises(BadInput):
        registry.publish(name=name, artifact_type="model", files=folder)


@pytest.mark.parametrize("kind", ["link", "pipe", "outside"])
def test_sources_that_are_no_files(registry: Registry, folder: Path, kind: str) -> None:
    if kind == "link":
        (folder / "l").symlink_to("/etc/hostname")
    elif kind == "outside":
        (folder / "d").symlink_to("/etc")
    else:
        os.mkfifo(folder / "p")
    with pytest.raises(Refused):
        registry.publish(name="bot", artifact_type="model", files=folder)
    assert registry.list(include_runs=True) == ()


def test_a_file_that_is_swapped_while_it_is_read(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "sub" / "weights.txt"
    real = blobs._copy_and_hash

    def swapped(source: int, target: int, progress: object) -> str:
        digest = real(source, target, None)
        with open(path, "r+b") as file:
            file.write(b"EVIL")
        os.utime(path)
        return digest

    monkeypatch.setattr(blobs, "_copy_and_hash", swapped)
    monkeypatch.setattr(blobs, "_reflinked", lambda *_: False)
    with pytest.raises(Conflict, match="changed while it was read"):
        registry.publish(name="bot", artifact_type="model", files={"w": path})


def test_a_hard_linked_source_is_copied(registry: Registry, folder: Path, tmp_path: Path) -> None:
    os.link(folder / "config.json", tmp_path / "other")
    registry.publish(name="bot", artifact_type="model", files=folder, move=True)
    (tmp_path / "other").write_text("[1]")
    assert registry.verify("bot", deep=True).ok


def test_wrong_role(registry: Registry, folder: Path) -> None:
    registry.publish(name="bot", artifact_type="model", files=folder)
    with pytest.raises(Refused, match="0 of 1 release"):
        registry.promote("bot", "prod")
    # and by force, past our own gates: the fold refuses it everywhere
    from engine.registry.documents import Promote

    view = registry.resolve("bot")
    with registry.locked():
        signed = registry.commit(
            Promote(name="bot", stage="prod", manifest=view.manifest, before=None)
        )
    assert registry.verdict(signed).startswith("refused: prod needs 1 release")
    assert registry.list(stage="prod") == ()


def test_a_device_can_not_empty_prod(registry: Registry, folder: Path) -> None:
    from engine.registry.authority import create_release
    from engine.registry.documents import Demote
    from engine.registry.keys import unlock_release_key

    view = registry.publish(name="bot", artifact_type="model", files=folder)
    create_release(registry, "anna", "correct horse battery")
    anna = unlock_release_key(registry.layout.keys, "correct horse battery")
    registry.promote("bot", "prod", cosigners=[anna])
    with registry.locked():
        signed = registry.commit(Demote(name="bot", stage="prod", before=view.manifest))
    assert registry.verdict(signed) == "refused: emptying prod takes a release key"
    assert registry.resolve("bot@prod").manifest == view.manifest


def test_a_replaced_trust_root(bot: Registry, tmp_path: Path) -> None:
    mallory = Registry.open(StatePaths(tmp_path / "mallory"))
    rewrite(bot.layout.root_document(1), lambda _: mallory.layout.root_document(1).read_bytes())
    with pytest.raises(IntegrityError, match="not the one this registry began with"):
        Registry.open(bot.paths)


def test_a_key_file_that_others_may_read(bot: Registry) -> None:
    (bot.layout.keys / "device.json").chmod(0o644)
    with pytest.raises(Refused, match="may be read by others"):
        Registry.open(bot.paths)


def test_a_damaged_key_file(tmp_path: Path) -> None:
    device_key(tmp_path)
    rewrite(tmp_path / "device.json", lambda data: data.replace(b'"id":"', b'"id":"0', 1))
    with pytest.raises(IntegrityError):
        device_key(tmp_path)


def test_a_copied_registry_takes_another_writer(bot: Registry, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bot.paths.root, tmp_path / "copy", symlinks=True)
    copy = Registry.open(StatePaths(tmp_path / "copy"))
    copy.publish(name="x", artifact_type="model", files=make_folder(tmp_path / "y", "y"))
    assert copy.writer != bot.writer
    assert Artifacts(copy.paths).fsck(deep=True).ok


def test_every_flipped_byte_is_found(bot: Registry) -> None:
    """A sample of every file; the full 10,000 flips run nightly."""
    assert_flips_are_found(bot, 60)


@pytest.mark.nightly
def test_ten_thousand_flips_are_found(bot: Registry) -> None:
    assert_flips_are_found(bot, 10_000)


def assert_flips_are_found(registry: Registry, count: int) -> None:
    import random

    random.seed(7)
    layout = registry.layout
    files = [
        *layout.blobs.iterdir(),
        *layout.manifests.iterdir(),
        *layout.log.rglob("*.json"),
        *layout.trust.iterdir(),
        layout.about,
    ]
    missed = []
    for _ in range(count):
        path = random.choice(files)
        data = path.read_bytes()
        place = random.randrange(len(data))
        bad = data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]
        path.chmod(0o644)
        path.write_bytes(bad)
        try:
            found = not Artifacts(StatePaths(registry.paths.root)).fsck(deep=True).ok
        except ModelOpsError:
            found = True
        if not found:
            missed.append((path.name, place))
        path.write_bytes(data)
    assert missed == []
