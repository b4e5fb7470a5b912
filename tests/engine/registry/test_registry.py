"""Publishing, finding, stages, keys, upkeep: the registry in ordinary use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import BadInput, Conflict, ModelOpsError, NotFound, Refused
from engine.paths import StatePaths
from engine.registry import Registry, blobs, index
from tests.engine.registry.conftest import make_folder
from tests.support.tampering import write_over

WORDS = "correct horse battery"


def test_publish_and_find(registry: Registry, folder: Path) -> None:
    view = registry.publish(
        name="bot",
        artifact_type="model",
        files=folder,
        metrics={"loss": 1.25, "bad": float("nan")},
        card="# Bot\nSpeaks like a *pirate*",
        license="apache-2.0",
        tags=["small"],
        run={"job": "j1"},
    )
    assert (view.version, view.license, view.metrics) == ("1", "Apache-2.0", {"loss": 1.25})
    for ref in ("bot", "bot@1", "bot@v1", "bot@latest", view.id, view.id[7:17]):
        assert registry.resolve(ref) == view
    for filters in (
        {"text": "pira"},
        {"text": "apache"},
        {"artifact_type": "model"},
        {"tag": "small"},
        {"metric": "loss<=1.25"},
        {"name": "bot"},
    ):
        assert registry.list(**filters) == (view,), filters
    for filters in ({"text": "ninja"}, {"artifact_type": "adapter"}, {"metric": "loss<1"}):
        assert registry.list(**filters) == (), filters
    with pytest.raises(NotFound, match="no version, stage or tag"):
        registry.resolve("bot@9")
    with pytest.raises(NotFound) as caught:
        registry.resolve("bto")
    assert "bot" in caught.value.hint


def test_the_idempotence_key(registry: Registry, folder: Path, tmp_path: Path) -> None:
    first = registry.publish(name="r.train", artifact_type="model", files=folder, key="j/s/o")
    again = registry.publish(
        name="r.train", artifact_type="model", files=make_folder(tmp_path / "x", "x"), key="j/s/o"
    )
    assert again == first
    assert registry.list() == ()
    assert registry.list(include_runs=True) == (first,)


def test_processes_that_race_under_one_key(paths: StatePaths, folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom engine.paths import StatePaths\n"
        "from engine.registry import Registry\n"
        "r = Registry.open(StatePaths(Path(sys.argv[1])))\n"
        "print(r.publish(name='a.b', artifact_type='model', files=Path(sys.argv[2]), key='k').id)"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(paths.root), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ids = {racer.communicate()[0].strip() for racer in racers}
    assert len(ids) == 1
    assert all(racer.returncode == 0 for racer in racers)
    assert len(Registry.open(paths).list(include_runs=True)) == 1


def test_unchanged_files_are_not_read_again(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time.sleep(blobs.RACY_NS / 1e9)  # files that changed this moment are always read
    registry.publish(name="bot", artifact_type="model", files=folder)
    read: list[int] = []
    real = os.readv

    def counted(fd: int, buffers: list[bytearray]) -> int:
        read.append(fd)
        return real(fd, buffers)

    monkeypatch.setattr(os, "readv", counted)
    registry.publish(name="bot", artifact_type="model", files=folder)
    registry.materialize("bot")
    assert read == []
    assert registry.verify("bot", deep=True).ok
    assert read


def test_versions(registry: Registry, folder: Path) -> None:
    for _ in range(2):
        registry.publish(name="bot", artifact_type="model", files=folder)
    registry.publish(name="bot", artifact_type="model", files=folder, version="2026.1-rc")
    view = registry.publish(name="bot", artifact_type="model", files=folder)
    assert view.version == "3"
    with pytest.raises(Conflict, match="has a version 2"):
        registry.publish(name="bot", artifact_type="model", files=folder, version="2")


def test_lineage_and_licences(registry: Registry, folder: Path, tmp_path: Path) -> None:
    base = registry.publish(name="base", artifact_type="base", files=folder, license="gpl-3.0")
    data = registry.publish(
        name="rows", artifact_type="dataset", files=make_folder(tmp_path / "d", "d"), license="mit"
    )
    child = registry.publish(
        name="bot",
        artifact_type="adapter",
        files=make_folder(tmp_path / "c", "c"),
        parents=[("base", base.id), ("trained_on", data.id)],
    )
    assert child.license == "GPL-3.0-only AND MIT"
    registry.register(child.id, name="mine")
    up = {(n.relation, n.view.name if n.view else "?") for n in registry.lineage("mine")}
    assert up >= {("registered_from", "bot"), ("base", "base"), ("trained_on", "rows")}
    assert {n.view.name for n in registry.lineage("base", up=False) if n.view} == {"bot", "mine"}
    other = registry.publish(
        name="free", artifact_type="model", files=folder, license="mit", parents=[("base", base.id)]
    )
    detail = Artifacts(registry.paths).show(other.id)
    assert "GPL-3.0-only" in detail.license_note
    bom = json.loads(Path(detail.sbom or "").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["components"][0]["name"] == "base"
    with pytest.raises(Conflict, match="is the base of"):
        Artifacts(registry.paths).delete(base.id)


def test_gates(artifacts: Artifacts, folder: Path) -> None:
    artifacts.paths.config.write_text(
        '[registry.gates.staging]\nmetrics = { perplexity = "<= 12" }\nlicenses = ["mit"]\n'
        'after = "dev"\n'
    )
    view = artifacts.add(folder, name="bot", artifact_type="model", license="apache-2.0")
    with pytest.raises(Refused) as caught:
        artifacts.promote("bot", "staging")
    for reason in ("no signed evaluation", "Apache-2.0: not allowed", "never was in dev"):
        assert reason in caught.value.why
    artifacts.registry.publish(
        name="r.check",
        artifact_type="report",
        files=folder,
        parents=[("evaluates", view.id)],
        metrics={"perplexity": 11.0},
    )
    artifacts.promote("bot", "dev")
    failed = [g.name for g in artifacts.gates("bot", "staging") if not g.ok]
    assert failed == ["licence"]
    artifacts.registry.register(view.id, name="bot", license="mit")
    artifacts.paths.config.write_text("[registry.gates.staging]\ncolour = 1\n")
    with pytest.raises(BadInput, match="not valid"):
        artifacts.gates("bot", "staging")


def test_a_tampered_artifact_is_not_promoted(artifacts: Artifacts, folder: Path) -> None:
    view = artifacts.add(folder, name="bot", artifact_type="model")
    digest = artifacts.show(view.id).files[0].sha256
    blob = artifacts.registry.layout.blob(digest)
    data = bytearray(blob.read_bytes())
    data[0] ^= 1
    write_over(blob, data)
    assert [g.name for g in artifacts.gates("bot", "staging") if not g.ok] == ["verified"]
    with pytest.raises(Refused, match="may not enter staging") as caught:
        artifacts.promote("bot", "staging")
    assert "not the ones that were signed" in caught.value.why


def test_stages_keys_and_audit(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    artifacts.add(folder, name="bot", artifact_type="model")
    artifacts.create_release_key("anna", WORDS)
    assert artifacts.root_is_locked()
    with pytest.raises(Refused, match="passphrase is wrong"):
        artifacts.promote("bot", "prod", passphrase="wrong words here")
    artifacts.promote("bot", "prod", passphrase=WORDS, note="first")
    artifacts.set_stage("canary", "release", 2, before="prod", passphrase=WORDS)
    assert [s.name for s in artifacts.stages()] == ["dev", "staging", "canary", "prod"]
    artifacts.create_release_key("bert", "another passphrase", passphrase=WORDS, key="anna")
    artifacts.approve("bot", "canary", passphrase=WORDS, key="anna")
    assert artifacts.approve("bot", "canary", passphrase=WORDS, key="anna") == 1
    with pytest.raises(Refused, match="1 of 2 release"):
        artifacts.promote("bot", "canary", passphrase=WORDS, key="anna")
    artifacts.promote("bot", "canary", passphrase="another passphrase", key="bert")
    second = artifacts.add(make_folder(tmp_path / "n", "n"), name="bot", artifact_type="model")
    between = artifacts.audit(ref=second.id)[0].time
    artifacts.promote("bot@2", "prod", passphrase=WORDS, key="anna", note="second")
    assert [c.version for c in artifacts.stage_history("bot", "prod")] == ["2", "1"]
    (then,) = artifacts.stage_history("bot", "prod", at=between)
    assert (then.version, then.note) == ("1", "first")
    with pytest.raises(Conflict, match="holds the stage"):
        artifacts.delete("bot@2")
    with pytest.raises(Refused, match="takes a release key"):
        artifacts.demote("bot", "prod")
    assert artifacts.resolve("bot@prod").version == "2"
    artifacts.demote("bot", "prod", passphrase=WORDS, key="anna")
    with pytest.raises(NotFound):
        artifacts.resolve("bot@prod")
    old = artifacts.registry.device.id
    artifacts.rotate_device_key(passphrase=WORDS, key="anna")
    assert artifacts.registry.device.id != old
    artifacts.add(folder, name="bot", artifact_type="model")
    assert artifacts.verify("bot@1").ok
    assert artifacts.fsck(deep=True).ok
    with pytest.raises(Conflict, match="only key of the root"):
        artifacts.revoke_key(
            artifacts.registry.trust.current.roles["root"].keys[0],
            "x",
            passphrase=WORDS,
            key="anna",
        )


def test_tags_and_yanks(artifacts: Artifacts, folder: Path) -> None:
    one = artifacts.add(folder, name="bot", artifact_type="model")
    two = artifacts.add(folder, name="bot", artifact_type="model")
    assert artifacts.tag("bot@1", "golden").tags == ("golden",)
    assert artifacts.resolve("bot@golden").id == one.id
    artifacts.tag("bot@2", "golden")
    assert artifacts.resolve("bot@golden").id == two.id
    with pytest.raises(BadInput, match="name of a stage"):
        artifacts.tag("bot@1", "prod")
    artifacts.yank("bot@2", "too rude")
    assert artifacts.resolve("bot").id == one.id
    assert artifacts.resolve("bot@2").yank_reason == "too rude"
    with pytest.raises(Refused, match="dev"):
        artifacts.promote("bot@2", "dev")
    artifacts.yank("bot@2", undo=True)
    assert artifacts.resolve("bot").id == two.id
    artifacts.yank("bot@1")
    artifacts.yank("bot@2")
    with pytest.raises(NotFound, match="every version of bot is yanked") as refused:
        artifacts.resolve("bot")
    assert refused.value.hint == "name the version: bot@1 or bot@2"


def test_collecting(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    artifacts.add(folder, name="kept", artifact_type="model")
    artifacts.add(make_folder(tmp_path / "x", "x"), name="gone", artifact_type="model")
    artifacts.delete("gone", "no use")
    assert artifacts.gc().blobs == 0  # young
    assert artifacts.gc().kept_young == 1
    told = artifacts.gc(grace_s=0)
    assert (told.blobs, told.dry_run) == (1, True)
    assert artifacts.gc(dry_run=False, grace_s=0).blobs == 1
    assert artifacts.fsck(deep=True).ok
    assert artifacts.verify("kept", deep=True).ok
    with pytest.raises(ModelOpsError, match="deleted"):
        artifacts.path(artifacts.audit(event_type="tombstone")[0].manifest)


def test_the_index_is_derived(artifacts: Artifacts, folder: Path) -> None:
    artifacts.add(folder, name="bot", artifact_type="model", tags=["a"])
    artifacts.promote("bot", "dev")
    registry = artifacts.registry
    before = index.dump(registry.db())
    registry.rebuild_index()
    assert index.dump(registry.db()) == before
    registry.close()
    for damage in (b"", b"garbage" * 1000):
        registry.layout.index.write_bytes(damage)
        again = Registry.open(artifacts.paths)
        assert index.dump(again.db()) == before
        again.close()


def test_a_looker_makes_nothing(tmp_path: Path) -> None:
    artifacts = Artifacts(StatePaths(tmp_path / "none"))
    assert artifacts.list() == ()
    with pytest.raises(NotFound):
        artifacts.show("bot")
    assert artifacts.keys() == ()
    assert artifacts.release_keys() == ()
    assert not artifacts.root_is_locked()
    assert artifacts.stages() == ()
    assert artifacts.remotes() == ()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "look",
    [
        lambda a: a.sync_status(),
        lambda a: a.sync_diff(),
        lambda a: a.push(),
        lambda a: a.pull(),
        lambda a: a.remote_probe("origin"),
        lambda a: a.remote_remove("origin"),
        lambda a: a.attest_public_pem(),
        lambda a: a.revoke_key("0123456789", "lost"),
        lambda a: a.rotate_device_key(),
        lambda a: a.market_verify("nowhere", "bot"),
        lambda a: a.market_pin("nowhere", "0" * 16),
    ],
)
def test_what_can_not_be_done_makes_nothing(
    tmp_path: Path, look: Callable[[Artifacts], object]
) -> None:
    artifacts = Artifacts(StatePaths(tmp_path / "none"))
    with pytest.raises(NotFound) as refused:
        look(artifacts)
    assert refused.value.hint, "it says what to do"
    assert not (tmp_path / "none").exists()


def test_a_place_that_can_not_be_a_remote_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    artifacts = Artifacts(StatePaths(tmp_path / "none"))
    with pytest.raises(BadInput, match="is no folder") as refused:
        artifacts.remote_add("origin", str(tmp_path / "file"))
    assert refused.value.hint
    assert not (tmp_path / "none").exists()


def test_compare(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    artifacts.registry.publish(name="a", artifact_type="model", files=folder, metrics={"loss": 2})
    artifacts.registry.publish(
        name="a", artifact_type="model", files=make_folder(tmp_path / "b", "b"), metrics={"loss": 1}
    )
    found = artifacts.compare("a@1", "a@2")
    assert found.metrics == (("loss", 2.0, 1.0),)
    assert [(path, same) for path, _, _, same in found.files] == [
        ("config.json", True),
        ("sub/weights.txt", False),
    ]
