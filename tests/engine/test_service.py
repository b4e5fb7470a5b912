"""The service process: streams, errors as their own class, cancelling, and no orphan."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import EngineUnavailable, NotFound, Refused
from engine.paths import StatePaths
from engine.service import Service

PLUGIN = """
import os, time
from engine.errors import Refused
from engine.kinds import Kind
from engine.recipe.spec import StepSpec

class Spec(StepSpec):
    pass

def count(params, emit, paths):
    print("noise on stdout must not break the protocol", flush=True)
    for i in range(params["to"]):
        emit({"i": i})
        time.sleep(params.get("pause", 0))
    return {"sum": sum(range(params["to"])), "home": str(paths.root)}

def refuse(params, emit, paths):
    raise Refused("no", why="because", hint="ask again")

def broken(params, emit, paths):
    return 1 / 0

def die(params, emit, paths):
    os.write(2, b"last words\\n")
    os._exit(3)

def cap(name):
    return f"counting_plugin:{name}"

KIND = Kind("counting", "counts", Spec, run=cap("count"), outputs={},
            actions={n: cap(n) for n in ("count", "refuse", "broken", "die")})
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    site = tmp_path / "site"
    info = site / "counting_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "counting_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[modelops_tui.kinds]\ncounting = counting_plugin:KIND\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with Service("counting", StatePaths(tmp_path / "home")) as running:
        yield running


def gone(pid: int) -> bool:
    for _ in range(2400):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_events_then_the_result(service: Service, tmp_path: Path) -> None:
    records = list(service.call("count", to=3))
    assert records[:3] == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert records[3] == {"result": {"sum": 3, "home": str(tmp_path / "home")}}


def test_one_process_serves_many_calls(service: Service) -> None:
    service.result("count", to=1)
    first = service.pid
    service.result("count", to=1)
    assert service.pid == first is not None


def test_errors_keep_their_class(service: Service) -> None:
    with pytest.raises(Refused) as caught:
        service.result("refuse")
    assert (caught.value.why, caught.value.hint) == ("because", "ask again")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        service.result("broken")
    with pytest.raises(NotFound, match="no action 'nothing'"):
        service.result("nothing")


def test_a_dead_child_is_told_with_its_last_words(service: Service) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        service.result("die")
    assert "last words" in caught.value.why
    assert service.result("count", to=2)["sum"] == 1


def test_closing_the_stream_cancels_the_action(service: Service) -> None:
    stream = service.call("count", to=100_000, pause=0.01)
    assert next(stream) == {"i": 0}
    stream.close()
    # the rest of the first call would take a thousand seconds
    assert service.result("count", to=2)["sum"] == 1


def test_the_child_leaves_with_its_owner(service: Service) -> None:
    service.result("count", to=1)
    pid = service.pid
    assert pid is not None
    service.close()
    assert gone(pid)


def test_an_unknown_kind_says_so(tmp_path: Path) -> None:
    with (
        Service("no-such-kind", StatePaths(tmp_path / "home")) as service,
        pytest.raises(EngineUnavailable, match="no-such-kind") as caught,
    ):
        service.result("anything")
    assert "there is no kind" in caught.value.why
