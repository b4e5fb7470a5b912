"""State directories for programs on a terminal: seeded, and without an engine unless asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.screens.seeded import Seed, seed_all

NO_ENGINE = "[ui]\nstart_engine = false\n"


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    made = seed_all(tmp_path / "state")
    made.paths.config.write_text(NO_ENGINE)
    return made


@pytest.fixture
def root(seed: Seed) -> Path:
    return seed.paths.root
