"""A worker started in advance: imports first, then one attempt, then gone.

It is exec'ed early and used once. Nothing is forked after an import: children of a process that
ran a parallel operation hang.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

#: Modules imported in advance, separated by commas.
ENV_IMPORTS = "MODELOPS_SPARE_IMPORTS"


def serve_once(descriptor: int, stop: threading.Event) -> None:
    """Import, wait for the attempt, and run it."""
    born = time.time()
    _import_ahead()
    message = _receive(socket.socket(fileno=descriptor))
    if message is None:
        return
    folder, env = message
    spec = json.loads((folder / "spec.json").read_bytes())
    _take_over_output(spec["log"], spec["work_dir"])
    threads = env.get("OMP_NUM_THREADS")
    if threads != os.environ.get("OMP_NUM_THREADS") or _code_changed_since(born):
        # OpenMP has read its variables, or the modules here are old: begin anew in this process
        os.execve(spec["argv"][0], spec["argv"], {**os.environ, **env})  # noqa: S606
    os.environ.update(env)
    from engine.worker.attempt import run_attempt

    run_attempt(folder, stop)


def _import_ahead() -> None:
    from engine.kinds import load_kinds
    from engine.worker import attempt, checkpoints

    load_kinds()
    del attempt, checkpoints
    for name in filter(None, os.environ.get(ENV_IMPORTS, "").split(",")):
        # a module that is not there is the attempt's to complain about
        with contextlib.suppress(ImportError):
            importlib.import_module(name.strip())


def _receive(sock: socket.socket) -> tuple[Path, dict[str, str]] | None:
    """The attempt's folder and environment; its locks stay open in this process until it ends."""
    data = b""
    while not data.endswith(b"\n"):
        part, locks, _, _ = socket.recv_fds(sock, 65536, 4)
        if not part:
            return None
        for fd in locks:
            # children that keep descriptors keep the locks, as in a worker started cold
            os.set_inheritable(fd, True)
        data += part
    sock.close()
    message = json.loads(data)
    return Path(message["folder"]), dict(message["env"])


def _take_over_output(log: str, work_dir: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    os.chdir(work_dir)


def _code_changed_since(born: float) -> bool:
    """True when a loaded module of ours was written after this process began to import it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("engine", "recipes"):
            file = getattr(module, "__file__", None)
            with contextlib.suppress(OSError):
                if file and os.stat(file).st_mtime > born:
                    return True
    return False
