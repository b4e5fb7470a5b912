"""A server's process started in advance: its libraries load while the model is looked up.

Most of a small server's start is imports. They need no model, so the worker begins them before its
own: in ``python -m engine.serving.warm <module>``, which then waits for one line on stdin (the
command line and the environment) and becomes ``python -m <module>``. No byte of a model is read
before that line, and it is sent after the bytes were verified. When whoever started it ends, stdin
ends, and the process leaves.

Only the standard library is imported: this is the first module a worker of ``serve`` loads.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

#: Backend -> the module its server is, and what that module is going to import.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "llama.cpp": (
        "llama_cpp.server",
        "llama_cpp.server.app",
        "llama_cpp.server.cli",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
        "anyio._backends._asyncio",
    ),
}
#: Read by OpenMP when it is loaded, so it can't wait for the command line.
_FROM_THE_START = {"OMP_WAIT_POLICY": "passive"}

_begun: list[Warm] = []


class Warm:
    """A waiting server process, in a group of its own. Used once, or killed."""

    def __init__(self, backend: str) -> None:
        program = PROGRAMS[backend]
        self.module = program[0]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.serving.warm", *program],
            stdin=subprocess.PIPE,
            env={**os.environ, **_FROM_THE_START},
            process_group=0,
        )

    def become(
        self, argv: tuple[str, ...], env: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | None:
        """Let it be the server of ``argv`` (``python -P -m <its module> ...``).

        Returns:
            The process; None when ``argv`` is another program or the process has ended: then it is
            killed and the caller starts the server itself.
        """
        pipe = self.process.stdin
        ours = (sys.executable, "-P", "-m", self.module)
        if argv[: len(ours)] == ours and pipe is not None and self.process.poll() is None:
            line = json.dumps({"argv": argv[len(ours) :], "env": dict(env)})
            with suppress(OSError):
                self._share_oom_score()
                pipe.write(line.encode() + b"\n")
                pipe.close()
                return self.process
        self.kill()
        return None

    def _share_oom_score(self) -> None:
        """It was born before the worker made itself the kernel's first choice."""
        with open("/proc/self/oom_score_adj") as mine:
            score = mine.read()
        with open(f"/proc/{self.process.pid}/oom_score_adj", "w") as its:
            its.write(score)

    def kill(self) -> None:
        """End it and reap it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()


def begin(spec: Mapping[str, Any]) -> None:
    """Called by the worker of a step of the kind ``serve``, before its own imports."""
    backend = spec.get("params", {}).get("backend", "llama.cpp")
    if backend in PROGRAMS and not _begun:
        _begun.append(Warm(backend))


def take(backend: str) -> Warm | None:
    """The process begun early, or one begun now; None for a backend that has no such program."""
    if backend not in PROGRAMS:
        return None
    return _begun.pop() if _begun else Warm(backend)


def discard() -> None:
    """Kill what was begun and never taken."""
    while _begun:
        _begun.pop().kill()


def main() -> None:
    """Import, wait for the command line, and be that program."""
    module, *ahead = sys.argv[1:]
    for name in ahead:
        # a module that is not there is the server's to complain about
        with suppress(ImportError):
            importlib.import_module(name)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return
    order = json.loads(line)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.update(order["env"])
    sys.argv[1:] = order["argv"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
