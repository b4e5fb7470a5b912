"""Deployments with the real llama.cpp server and a tiny real model, under a real engine."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from engine.errors import BadInput, Conflict, ModelOpsError
from engine.types.serving import ChatMessage, DeploymentState, Sampling
from modelops_tui import Workstation
from tests.recipes.serve.asking import QUESTION as ask
from tests.recipes.serve.asking import post, servers

pytestmark = pytest.mark.slow


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_start_ask_kill_sleep_switch_roll_back_stop(
    station: Workstation, ggufs: tuple[Path, Path]
) -> None:
    first, second = map(str, ggufs)
    view = station.serve(first, name="tiny", threads=1, context=256, memory="400 MiB")
    assert view.state is DeploymentState.READY
    with pytest.raises(Conflict, match="exists and runs"):
        station.serving.start(first, name="tiny")

    status, before = post(station, "tiny", ask)
    assert status == 200
    pieces = list(
        station.stream("tiny", [ChatMessage("user", "hello")], Sampling(0.0, max_tokens=8))
    )
    assert pieces[0].kind == "prompt"
    assert pieces[-1].kind == "end"
    assert pieces[-1].text == "".join(p.text for p in pieces if p.kind == "text")

    # the server dies: the next request waits for the new one and is answered
    pid = station.serving.get("tiny").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert post(station, "tiny", ask)[0] == 200

    assert station.serving.sleep("tiny").name == "tiny"
    assert post(station, "tiny", ask)[0] == 200

    # a switch under load: every request is answered, and the answers are the new model's
    statuses: list[int] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            statuses.append(post(station, "tiny", ask)[0])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    switched = station.serving.switch("tiny", second)
    over.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert switched.current is not None
    assert switched.current.model == second
    assert post(station, "tiny", ask)[1]["choices"] != before["choices"]

    broken = Path(second).with_name("broken.gguf")
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelOpsError, match="no readable GGUF"):
        station.serving.switch("tiny", str(broken))
    assert post(station, "tiny", ask)[0] == 200

    back = station.serving.rollback("tiny")
    assert (back.pinned, back.current and back.current.model) == (True, first)
    assert post(station, "tiny", ask)[1]["choices"] == before["choices"]

    deadline = time.monotonic() + 60
    # what is told is up to a second old: until it is the one that runs
    while (pid := station.serving.get("tiny").pid) not in servers(station.paths.root):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert pid is not None
    assert station.serving.stop("tiny", wait_s=120).state is DeploymentState.STOPPED
    assert not alive(pid)


def test_bad_requests_are_refused_with_reasons(
    station: Workstation, ggufs: tuple[Path, Path]
) -> None:
    with pytest.raises(BadInput):
        station.serving.start(str(ggufs[0]), name="../x")
    with pytest.raises(BadInput):
        station.serving.start(str(ggufs[0]), name="tiny", llama_cpp={"n_thread": 1})
    station.serve(str(ggufs[0]), name="tiny", threads=1, context=256, max_request_mb=0.001)
    assert post(station, "tiny", {"prompt": "x" * 3000})[0] == 413
    assert post(station, "tiny", {"model": "other", "prompt": "x"})[0] == 404
    (station.paths.serving / "tiny" / "key").write_text("wrong\n")
    assert post(station, "tiny", {"prompt": "x"})[0] == 401
