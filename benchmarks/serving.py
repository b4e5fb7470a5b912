"""What a deployment costs and survives: start beside the bare server, switches, kills, under load.

``python -m benchmarks serving`` (``SWITCHES=50 KILLS=30 STARTS=7`` by default) builds two tiny
models, so that what is measured is the house and not the arithmetic. Bars: a start takes at most
0.5 s longer than the server's own; 50 switches under load fail no request; after a SIGKILL of the
server, the worker, the shim, the engine or the gateway, everything is back, nothing is left over,
and every client heard a whole answer or a clean error.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import Conflict
from engine.serving.launch import free_port
from modelops_tui import Workstation
from modelops_tui.gateway.tokens import Tokens
from tests.recipes.serve.asking import processes

NAME = "bench"
SMALL: dict[str, Any] = {"threads": 1, "context": 256, "memory": "400 MiB"}
#: Greedy: each model has one answer, so that a mixed or a cut one is seen.
ASK = {"prompt": "the license", "temperature": 0.0}
VICTIMS = ("server", "worker", "shim", "engine", "gateway")
#: Tokens of an answer that is to be hit in the middle.
_LONG = 200
_TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def workstation(home: Path) -> Iterator[Workstation]:
    """A state directory with a running engine; everything ends with it."""
    os.environ.update(MODELOPS_HOME=str(home), MODELOPS_SPACE_FLOOR_MIB="1", OMP_NUM_THREADS="1")
    with Workstation(home) as station:
        station.system.ensure_engine()
        try:
            yield station
        finally:
            for view in station.serving.list():
                with suppress(Conflict):
                    station.serving.stop(view.name, wait_s=60)
            station.system.stop_engine()


def models(folder: Path) -> tuple[Path, Path]:
    """Two tiny GGUFs of the same shapes."""
    from recipes.gguf.convert import convert
    from tests.support.tiny_model import build_tiny_model

    for seed in (0, 1):
        convert(build_tiny_model(folder / f"m{seed}", seed), folder / f"m{seed}.gguf")
    return folder / "m0.gguf", folder / "m1.gguf"


# -- start ----------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its reaped children so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def bare_start(gguf: Path) -> tuple[float, float]:
    """Wall and CPU seconds from the command to the first 200 of the llama.cpp server alone."""
    port = free_port()
    argv = [sys.executable, "-P", "-m", "llama_cpp.server", "--model", str(gguf), "--port",
            str(port), "--n_threads", "1", "--n_threads_batch", "1", "--n_ctx", "256",
            "--interrupt_requests", "False", "--verbose", "False"]  # fmt: skip
    began = time.monotonic()
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("GET", "/v1/models")
                if connection.getresponse().status == 200:
                    return time.monotonic() - began, cpu_seconds(server.pid)
            time.sleep(0.02)
    finally:
        server.kill()
        server.wait()


def our_start(station: Workstation, gguf: Path) -> tuple[float, float]:
    """The same for a deployment: from ``serving.start`` until it answers with 200."""
    began = time.monotonic()
    station.serving.start(str(gguf), name=NAME, **SMALL)
    view = station.serving.wait_ready(NAME, 600)
    wall = time.monotonic() - began
    while view.pid is None:
        view = station.serving.get(NAME)
    worker = parent(view.pid)
    cpu = sum(map(cpu_seconds, (view.pid, worker, parent(worker))))
    station.serving.stop(NAME, wait_s=60)
    return wall, cpu


def starts(station: Workstation, gguf: Path, rounds: int) -> dict[str, float]:
    """Interleaved starts; medians of wall and CPU seconds."""
    bare, ours = [], []
    our_start(station, gguf)
    for _ in range(rounds):
        bare.append(bare_start(gguf))
        ours.append(our_start(station, gguf))
    return {
        "bare_s": statistics.median(wall for wall, _ in bare),
        "ours_s": statistics.median(wall for wall, _ in ours),
        "bare_cpu_s": statistics.median(cpu for _, cpu in bare),
        "ours_cpu_s": statistics.median(cpu for _, cpu in ours),
        "over_s": statistics.median(o[0] - b[0] for b, o in zip(bare, ours, strict=True)),
        "over_least_s": min(o[0] - b[0] for b, o in zip(bare, ours, strict=True)),
        "over_cpu_s": statistics.median(o[1] - b[1] for b, o in zip(bare, ours, strict=True)),
    }


# -- load -----------------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients that ask all the time, whole and streamed in turn, and say what they heard."""

    url: Callable[[], str]
    key: str
    clients: int = 3
    tokens: int = 12
    heard: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    unclean: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._client, args=(i,)) for i in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        count = number
        while not self._over.is_set():
            count += 1
            outcome = self.ask(stream=bool(count % 2))
            self.heard[outcome] += 1
            # a person's pause, and a longer one where nobody took the connection
            time.sleep(0.1 if outcome == "nobody" else 0.02)

    def ask(self, *, stream: bool = False) -> str:
        """One request, judged: ``whole``, ``busy``, ``error event``, ``cut``, ``nobody``, ``bad``.

        ``cut``: the connection ended in the middle (whoever owned it was killed).
        """
        connection = http.client.HTTPConnection(urlsplit(self.url()).netloc, timeout=300)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        body = {"model": NAME, "stream": stream, **ASK, "max_tokens": self.tokens}
        begun = False
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            begun = True
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return "cut" if begun else "nobody"
        finally:
            connection.close()
        return self._judge(answer, text, stream=stream)

    def _judge(self, answer: http.client.HTTPResponse, text: bytes, *, stream: bool) -> str:
        try:
            if answer.status in (429, 503):
                json.loads(text)["error"]["message"]
                if answer.headers["Retry-After"]:
                    return "busy"
            elif answer.status == 200 and not stream:
                self.answers[json.loads(text)["choices"][0]["text"]] += 1
                return "whole"
            elif answer.status == 200:
                lines = [x[6:] for x in text.split(b"\n") if x.startswith(b"data: ")]
                events = [json.loads(x) for x in lines if x != b"[DONE]"]
                if "error" in events[-1]:
                    return "error event"
                if lines[-1] == b"[DONE]":
                    self.answers["".join(e["choices"][0]["text"] for e in events)] += 1
                    return "whole"
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.unclean.append(f"{error!r}: {text[-300:]!r}")
            return "bad"
        self.unclean.append(f"status {answer.status}: {text[-300:]!r}")
        return "bad"


# -- switches -------------------------------------------------------------------------------------


def switches(station: Workstation, pair: tuple[Path, Path], count: int) -> dict[str, object]:
    """``count`` switches to and fro under load; what the clients heard and how long each took."""
    station.serve(str(pair[0]), name=NAME, **SMALL)
    took = []
    with Load(lambda: station.serving.get(NAME).url, station.serving.key(NAME)) as load:
        for number in range(1, count + 1):
            began = time.monotonic()
            station.serving.switch(NAME, str(pair[number % 2]))
            took.append(time.monotonic() - began)
    station.serving.stop(NAME, wait_s=60)
    return {
        "switches": count,
        "heard": dict(load.heard),
        "failed": sum(load.heard.values()) - load.heard["whole"],
        "texts": len(load.answers),
        "switch_s": statistics.median(took),
        "unclean": load.unclean[:3],
    }


# -- kills ----------------------------------------------------------------------------------------


@dataclass
class Chaos:
    """A deployment and a gateway under load, and something that kills their processes."""

    station: Workstation
    seed: int
    token: str = ""
    port: int = field(default_factory=free_port)
    kills: Counter[str] = field(default_factory=Counter)
    back_s: dict[str, list[float]] = field(default_factory=dict)
    _gateway: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """What systemd (or any command) does: start the engine and the gateway where they died."""
        self.station.system.ensure_engine()
        if self._gateway is None or self._gateway.poll() is not None:
            with open(self.station.paths.root / "gateway.log", "ab") as log:
                self._gateway = subprocess.Popen(
                    [sys.executable, "-m", "modelops_tui", "gateway", "--port", str(self.port),
                     "--rate", "0"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip

    def end(self) -> None:
        """Stop the gateway."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()

    def pids(self) -> dict[str, int]:
        """Who lives now, by what it is. A name twice would be an orphan: it is numbered."""
        found: dict[str, int] = {}
        for pid, words in sorted(processes(self.station.paths.root).items()):
            for name, mark in (
                ("server", "llama_cpp.server"),
                ("worker", "-m engine.worker "),
                ("shim", "supervise/shim.py"),
                ("engine", "-m engine.daemon"),
                ("gateway", "modelops_tui gateway"),
            ):
                if mark in words:
                    found[name if name not in found else f"{name} {pid}"] = pid
                    break
            else:
                found[words] = pid
        return found

    def whole(self) -> bool:
        """Whether exactly one of each lives."""
        return set(self.pids()) == set(VICTIMS)

    def strike(self, dice: random.Random) -> list[str]:
        """Kill one or two at random."""
        living = self.pids()
        struck = [name for name in dice.sample(VICTIMS, dice.choice((1, 1, 2))) if name in living]
        for name in struck:
            with suppress(ProcessLookupError):
                os.kill(living[name], signal.SIGKILL)
                self.kills[name] += 1
        return struck

    def recover(self, struck: list[str], loads: list[Load]) -> None:
        """Wait until both ways answer and nothing is missing or left over.

        Raises:
            TimeoutError: that took more than two minutes.
        """
        began = time.monotonic()
        while True:
            self.keep()
            if self.whole() and all(load.ask() == "whole" for load in loads) and self.whole():
                break
            if time.monotonic() - began > 180:
                view = self.station.serving.get(NAME)
                raise TimeoutError(f"after {struck}: {self.pids()}, {view.state} {view.reason}")
            time.sleep(0.1)
        self.back_s.setdefault("+".join(sorted(struck)), []).append(time.monotonic() - began)


def chaos(station: Workstation, gguf: Path, kills: int, seed: int) -> dict[str, object]:
    """``kills`` rounds of SIGKILL under load, directly and through the gateway."""
    dice = random.Random(seed)
    station.serve(str(gguf), name=NAME, **SMALL)
    storm = Chaos(station, seed)
    secret, _ = Tokens(station.paths).add("chaos", ["run"])
    through = Load(lambda: f"http://127.0.0.1:{storm.port}", secret, 2, _LONG)
    direct = Load(lambda: station.serving.get(NAME).url, station.serving.key(NAME), 1, _LONG)
    idle = [Load(load.url, load.key) for load in (through, direct)]
    try:
        storm.recover(["nothing"], idle)
        by_round: list[tuple[list[str], Counter[str]]] = []
        with through, direct:
            for _ in range(kills):
                time.sleep(dice.uniform(0.2, 1.5))
                before = Counter(through.heard)
                struck = storm.strike(dice)
                storm.recover(struck, idle)
                by_round.append((struck, through.heard - before))
        final = station.serving.get(NAME)
        station.serving.stop(NAME, wait_s=60)
    finally:
        storm.end()
    # a gateway that was killed can say nothing; while it lived, its clients heard a clean end
    unclean = [
        f"{struck}: {dict(heard)}"
        for struck, heard in by_round
        if "gateway" not in struck and (heard["cut"] or heard["nobody"])
    ]
    station.system.stop_engine()
    left = processes(station.paths.root)
    return {
        "kills": dict(storm.kills),
        "through_gateway": dict(through.heard),
        "direct": dict(direct.heard),
        "texts": len(through.answers | direct.answers),
        "unclean": unclean + through.unclean[:3] + direct.unclean[:3],
        "left": left,
        "state": final.state,
        "back_s": {name: round(statistics.median(v), 1) for name, v in storm.back_s.items()},
        "back_worst_s": round(max(max(v) for v in storm.back_s.values()), 1),
    }


def main() -> None:
    """Run all three and print what was found."""
    kills, count, rounds = (
        int(os.environ.get(name, default))
        for name, default in (("KILLS", "30"), ("SWITCHES", "50"), ("STARTS", "7"))
    )
    seed = int(os.environ.get("MODELOPS_SEED") or random.SystemRandom().randrange(2**31))
    with tempfile.TemporaryDirectory() as folder:
        pair = models(Path(folder))
        with workstation(Path(folder) / "state") as station:
            if rounds:
                print(json.dumps({"starts": starts(station, pair[0], rounds)}), flush=True)
            if count:
                print(json.dumps({"switches": switches(station, pair, count)}), flush=True)
            if kills:
                found = chaos(station, pair[0], kills, seed)
                print(json.dumps({"seed": seed, "chaos": found}, default=str), flush=True)


if __name__ == "__main__":
    main()
