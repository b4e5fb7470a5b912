"""Schemathesis against the gateway's own OpenAPI, over a real socket, with every check it has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_tui.gateway.app import GatewaySettings
from tests.support.gateway import Gateway, running_gateway
from tests.support.gateway_state import fill

pytest.importorskip("schemathesis", reason="pip install -e '.[dev]'")
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """No limit of requests, streams that end soon, and no engine: accepted jobs stay queued.

    A deployment that the requests make stays queued too: whoever asks it hears 503 at once.
    """
    folder = tmp_path_factory.mktemp("gateway")
    settings = GatewaySettings(requests_per_minute=0, stream_s=0.2, start_engine=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
        with running_gateway(folder / "state", settings) as made:
            fill(made.bench, folder / "files")
            yield made


def schemathesis(gateway: Gateway, cwd: Path, *options: str) -> tuple[int, str]:
    token, _ = gateway.tokens.add("schemathesis", ["admin"])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(CONFIG)),
            *("run", f"{gateway.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--warnings", "off", "--continue-on-failure"),
            *("--request-timeout", "120", "--no-color"),
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=3000,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(1200)
def test_it_finds_nothing(filled: Gateway, tmp_path: Path) -> None:
    """Every operation: its examples, then drawn requests; the same ones in every run."""
    code, said = schemathesis(
        filled,
        tmp_path,
        *("--phases", "examples,fuzzing", "--max-examples", "2"),
        *("--seed", "1", "--generation-deterministic"),
    )
    assert code == 0, said
    operations = len([m for path in filled.app.openapi()["paths"].values() for m in path])
    assert f"{operations} selected / {operations} total" in said


@pytest.mark.nightly
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_it_finds_nothing_at_length(filled: Gateway, tmp_path: Path, seed: int) -> None:
    """All phases: coverage of every boundary, fuzzing, and sequences of linked requests."""
    code, said = schemathesis(
        filled,
        tmp_path,
        *("--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", "100", "--seed", str(seed)),
    )
    assert code == 0, said
