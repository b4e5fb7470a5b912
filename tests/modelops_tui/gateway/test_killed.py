"""SIGKILL of the gateway while it streams: clean errors, nothing left, the next one answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from engine.serving.launch import free_port
from tests.recipes.serve.asking import processes
from tests.support.live import House

httpx = pytest.importorskip("httpx", reason="pip install -e '.[dev]'")
openai = pytest.importorskip("openai", reason="pip install -e '.[dev]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TOKENS = 200
ASK: dict[str, Any] = {
    "model": "support-bot", "prompt": "x", "max_tokens": TOKENS, "temperature": 0, "stream": True,
}  # fmt: skip


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(port: int) -> subprocess.Popen[bytes]:
    """The gateway as a user starts it."""
    command = [sys.executable, "-m", "modelops_tui", "gateway", "--port", str(port), "--rate", "0"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


class Clients:
    """The official client, again and again, in threads; what each stream came to."""

    def __init__(self, live: House, port: int, count: int) -> None:
        self.heard: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        self.streaming = 0
        self._client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=live.token, max_retries=0
        )
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            with self._lock:
                self.streaming = 0
            outcome = self._once()
            with self._lock:
                self.heard[outcome] += 1
            time.sleep(0.05)

    def _once(self) -> str:
        text, ended = "", False
        try:
            for piece in self._client.completions.create(**ASK):
                text += piece.choices[0].text
                ended = ended or piece.choices[0].finish_reason is not None
                with self._lock:
                    self.streaming = max(self.streaming, len(text))
        except openai.APIConnectionError:
            return "nobody"
        except openai.OpenAIError as error:
            return f"{type(error).__name__}: {error}"
        except httpx.TransportError:
            # in the middle of a stream the client passes on what its HTTP library says
            return "cut"
        if not ended:
            return "a cut stream passed for a whole one"
        self.texts[text] += 1
        return "whole"

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()


def test_a_killed_gateway_leaves_nothing_and_its_successor_answers(live: House) -> None:
    port = free_port()
    url = live.station.serving.get("support-bot").url
    before = set(processes(live.station.paths.root))
    gateway = start(port)
    clients = Clients(live, port, 3)
    try:
        for _ in range(3):
            whole = clients.heard["whole"]
            until(lambda enough=whole: clients.heard["whole"] > enough)  # type: ignore[misc]
            until(lambda: clients.streaming > 20)
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.wait()
            refused = clients.heard["nobody"]
            until(lambda enough=refused: clients.heard["nobody"] > enough)  # type: ignore[misc]
            gateway = start(port)
        whole = clients.heard["whole"]
        until(lambda: clients.heard["whole"] > whole)
    finally:
        clients.end()
        gateway.terminate()
        gateway.wait()
    # a stream that was cut is never taken for a whole answer, and each whole answer is the same
    assert set(clients.heard) <= {"whole", "nobody", "cut"}, clients.heard
    assert len(clients.texts) == 1
    # the streams of the dead end at the model's server too, and nobody is left
    until(lambda: live.station.serving.get("support-bot").active == 0)
    assert live.station.serving.get("support-bot").url == url
    assert set(processes(live.station.paths.root)) == before, json.dumps(
        processes(live.station.paths.root)
    )
