"""What the registry signed is what is served: artifacts by stage, promotion, tampering."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.errors import Conflict, ModelOpsError
from engine.registry import Registry
from engine.types.serving import DeploymentState
from modelops_tui import Workstation
from tests.recipes.serve.asking import QUESTION, post, processes, reason_of, servers, text_of
from tests.support.tampering import write_over


def publish(station: Workstation, gguf: Path, name: str = "bot") -> str:
    """A GGUF as a signed artifact; returns its manifest."""
    registry = Registry.open(station.paths.ensure())
    try:
        view = registry.publish(
            name=name, artifact_type="quantized", files={"model.gguf": gguf}, license="Apache-2.0"
        )
        return view.manifest
    finally:
        registry.close()


def promote(station: Workstation, manifest: str, stage: str) -> None:
    registry = Registry.open(station.paths)
    try:
        registry.promote(manifest, stage)
    finally:
        registry.close()


def tamper(station: Workstation) -> None:
    """Change one byte in the middle of the largest blob, as malware or a bad disk would."""
    registry = Registry.open(station.paths)
    blob = max(registry.layout.blobs.iterdir(), key=lambda path: path.stat().st_size)
    registry.close()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    write_over(blob, data)


def wait_for(station: Workstation, name: str, *states: DeploymentState) -> str:
    """Wait until a deployment is in one of the states; returns its reason."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        view = station.serving.get(name)
        if view.state in states:
            return view.reason
        time.sleep(0.05)
    raise AssertionError(f"{name} is {view.state} ({view.reason}), not {states}")


def test_a_stage_is_served_keys_are_asked_for_and_a_changed_byte_is_refused(
    station: Workstation, gguf: Path
) -> None:
    manifest = publish(station, gguf)
    promote(station, manifest, "dev")
    view = station.serve("bot@dev", threads=1, context=256, memory="400 MiB")
    assert view.name == "bot"
    assert view.current is not None
    assert view.current.model == manifest
    assert text_of(post(station, "bot", QUESTION))
    for wrong in ("", "nonsense", station.serving.key("bot")[:-1]):
        status, value = post(station, "bot", QUESTION, key=wrong)
        assert (status, value["error"]["type"]) == (401, "authentication_error")
    assert len(servers(station.paths.root)) == 1

    # bytes are verified each time they are loaded, not only at the first start
    station.serving.sleep("bot")
    assert not servers(station.paths.root)
    tamper(station)
    status, value = post(station, "bot", QUESTION)
    assert status == 503
    assert "not the ones that were signed" in value["error"]["message"]
    assert "not the ones that were signed" in wait_for(station, "bot", DeploymentState.FAILED)
    assert not servers(station.paths.root)

    with pytest.raises(ModelOpsError) as refused:
        station.serve("bot@dev", name="again", threads=1, context=256, memory="400 MiB")
    assert "not the ones that were signed" in reason_of(refused.value)
    assert not [d for d in station.serving.list() if d.name == "again"]
    assert not servers(station.paths.root)


@pytest.mark.slow
def test_a_promotion_is_followed_a_tampered_one_is_not_and_a_rollback_stays(
    station: Workstation, ggufs: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = publish(station, ggufs[0]), publish(station, ggufs[1])
    promote(station, first, "dev")
    station.serve("bot@dev", threads=1, context=256, memory="400 MiB")
    before = text_of(post(station, "bot", QUESTION))

    promote(station, second, "dev")
    deadline = time.monotonic() + 120
    while text_of(post(station, "bot", QUESTION)) == before:
        assert time.monotonic() < deadline, station.serving.get("bot")
        time.sleep(0.1)
    after = text_of(post(station, "bot", QUESTION))
    view = station.serving.get("bot")
    assert [view.current and view.current.model, view.previous[0].model] == [second, first]

    # the next version is damaged before it is promoted: the one that runs goes on
    damaged = tmp_path / "third.gguf"
    damaged.write_bytes(ggufs[1].read_bytes() + b"\0" * 4096)
    third = publish(station, damaged)
    tamper(station)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.switch("bot", third)
    assert "not the ones that were signed" in reason_of(refused.value)
    assert text_of(post(station, "bot", QUESTION)) == after

    back = station.serving.rollback("bot")
    assert (back.pinned, back.current and back.current.model) == (True, first)
    assert text_of(post(station, "bot", QUESTION)) == before
    # pinned: the stage still names the second, and is not followed
    time.sleep(4)
    assert text_of(post(station, "bot", QUESTION)) == before
    with pytest.raises(Conflict, match="exists and runs"):
        station.serving.start("bot@dev")
    station.serving.stop("bot", wait_s=60)
    assert not servers(station.paths.root)
    assert not [words for words in processes(station.paths.root).values() if "worker" in words]
