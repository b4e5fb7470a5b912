"""Only whole checkpoints count: truncated, altered and foreign ones are passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import IntegrityError
from engine.worker.checkpoints import (
    MARKER,
    has_complete,
    latest_complete,
    mark_complete,
    prune,
    verify,
)


def write(folder: Path, number: int, *, mark: bool = True, config: str = "c") -> Path:
    place = folder / f"checkpoint-{number}"
    (place / "deep").mkdir(parents=True)
    (place / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (place / "deep" / "state.json").write_text(json.dumps({"step": number}))
    if mark:
        mark_complete(place, config)
    return place


def number_of(folder: Path, config: str | None = "c") -> int | None:
    found = latest_complete(folder, config)
    return found.number if found else None


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert number_of(tmp_path / "none") is None
    for number in (9, 10, 100):
        write(tmp_path, number)
    assert number_of(tmp_path) == 100
    write(tmp_path, 200, mark=False)
    assert number_of(tmp_path) == 100
    assert has_complete(tmp_path) == 100


@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped", "marker", "marker-text"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    weights = newest / "weights.bin"
    if damage == "missing":
        weights.unlink()
    elif damage == "shorter":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flipped":
        data = bytearray(weights.read_bytes())
        data[5000] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == "marker":
        (newest / MARKER).unlink()
    else:
        (newest / MARKER).write_text('{"files"')
    assert number_of(tmp_path) == 1
    with pytest.raises(IntegrityError):
        verify(newest, "c")
    verify(tmp_path / "checkpoint-1", "c")


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    write(tmp_path, 1, config="old")
    assert number_of(tmp_path, "new") is None
    assert number_of(tmp_path, None) == 1
    with pytest.raises(IntegrityError, match="another configuration"):
        verify(tmp_path / "checkpoint-1", "new")


def test_prune_keeps_the_newest_whole_ones_and_the_one_being_written(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write(tmp_path, number)
    write(tmp_path, 3_000, mark=False)
    half = write(tmp_path, 2_000, mark=False)
    removed = {path.name for path in prune(tmp_path, keep=2)}
    assert removed == {"checkpoint-1", "checkpoint-2"}
    write(tmp_path, 2_500)
    assert half in prune(tmp_path, keep=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-2500", "checkpoint-3000", "checkpoint-4"]
