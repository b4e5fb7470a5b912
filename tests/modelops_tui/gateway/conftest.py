"""One gateway for each module: making it costs a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelops_tui.gateway.app import GatewaySettings
from tests.support.gateway import Gateway, running_gateway
from tests.support.live import House, house


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Small limits, and no engine: what it accepts stays queued."""
    settings = GatewaySettings(
        max_body=20_000, requests_per_minute=200, stream_s=0.6, start_engine=False
    )
    with running_gateway(tmp_path_factory.mktemp("gateway") / "state", settings) as made:
        yield made


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Engine, two deployments, an index and a gateway: for the slow tests."""
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made
