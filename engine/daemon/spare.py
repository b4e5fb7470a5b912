"""The engine's end of a spare: a shim and its worker, started in advance, used for one attempt."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from engine.paths import StatePaths
from engine.supervise.identity import MARKER_ENV
from engine.worker.spare import ENV_IMPORTS

_log = logging.getLogger(__name__)

#: What differs between attempts; the rest of the environment is the engine's, as for every worker.
_PER_ATTEMPT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", MARKER_ENV)


class Spare:
    """One waiting pair of processes. They leave when this end of the socket closes."""

    def __init__(
        self, paths: StatePaths, shim: Path, environment: Mapping[str, str], imports: str
    ) -> None:
        ours, theirs = socket.socketpair()
        env = {**environment, ENV_IMPORTS: imports, MARKER_ENV: f"{paths.root}|spare"}
        worker = [sys.executable, "-P", "-m", "engine.worker", "--spare"]
        with open(paths.engine_log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(shim), "--spare", str(theirs.fileno()), *worker],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=paths.root,
                env=env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        theirs.close()
        self._socket = ours

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def assign(
        self, folder: Path, environment: Mapping[str, str], locks: tuple[int, ...]
    ) -> subprocess.Popen[bytes] | None:
        """Hand an attempt over; its shim from now on, or None when the spare is gone."""
        message = {
            "folder": str(folder),
            "env": {name: environment[name] for name in _PER_ATTEMPT if name in environment},
        }
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode() + b"\n"], list(locks))
        except OSError as error:
            _log.warning("the spare worker is gone: %s", error)
            self.close()
            return None
        self._socket.close()
        return self.process

    def close(self) -> None:
        """Let the pair leave and reap it."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
            return
        self.process.kill()
        self.process.wait()
