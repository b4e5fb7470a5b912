"""Tiny real GGUFs, and a workstation whose deployments all end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Conflict
from modelops_tui import Workstation
from recipes.gguf.convert import convert
from tests.support.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in GGUF form."""
    made = tmp_path_factory.mktemp("gguf") / "m0.gguf"
    convert(tiny_model, made)
    return made


@pytest.fixture(scope="session")
def ggufs(gguf: Path) -> tuple[Path, Path]:
    """The tiny model and a stranger of the same shapes."""
    folder = build_tiny_model(gguf.parent / "m1", seed=1)
    convert(folder, gguf.parent / "m1.gguf")
    return gguf, gguf.parent / "m1.gguf"


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workstation]:
    """A workstation on a state directory of its own, with the user's engine settings."""
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    with Workstation(tmp_path / "s") as made:
        yield made
        for view in made.serving.list():
            try:
                made.serving.stop(view.name, wait_s=120)
            except Conflict:
                continue
        made.system.stop_engine()
