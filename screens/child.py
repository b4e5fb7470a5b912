"""A command of this program in a process of its own: the screens never wait for what it reads.

A query over a large dataset, or the import of one, holds the interpreter for seconds where it runs
in a thread; in a process it doesn't, and it can be ended at any moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from screens.progress import Stopped, Task

#: Seconds that a command has to tidy up after it was asked to end.
GRACE_S = 5.0


class Child:
    """``modelops-tui COMMAND --json -- ARGUMENTS``, watched and stopped through a task.

    Args:
        command: the command and its options.
        arguments: what may begin with anything, a dash too.
        paths: the state directory it works on.
        task: told how far it is; its ``stop`` ends the command.
        source: the file that it reads, where that tells how far it is.
        module: a module to run in place of the whole program; it prints JSON without being asked.
        live: what it says beside its answer is shown line by line as what is being worked on.
    """

    def __init__(
        self,
        command: list[str],
        arguments: list[str],
        paths: StatePaths,
        task: Task,
        source: Path | None = None,
        module: str = "",
        *,
        live: bool = False,
    ) -> None:
        whole = ["modelops_tui", *command, "--json", "--", *arguments]
        self._words = [module, *command, *arguments] if module else whole
        self._paths, self._task = paths, task
        self._live = live
        self.narration = ""
        """What it said beside its answer."""
        self._source = source.resolve() if source is not None and source.is_file() else None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def run(self) -> Any:
        """What it printed, parsed (called in a thread).

        Raises:
            Stopped: the task was stopped.
            ModelOpsError: what the command raised.
        """
        with self._lock:
            if self._task.stopping:
                raise Stopped(f"{self._task.title}: stopped", why=self._task.stopped_means)
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._words],
                env={**os.environ, "MODELOPS_HOME": str(self._paths.root)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # the terminal's ctrl+c is the screens' business
                start_new_session=True,
            )
        try:
            out, err = self._communicate(self._process)
        finally:
            self._task.over = True
        if self._task.stopping:
            raise Stopped(f"{self._task.title}: stopped", why=self._task.stopped_means)
        self.narration = err.decode("utf-8", "replace").strip()
        return _answer(out, err, self._process.returncode)

    def _communicate(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        if not self._live or process.stdout is None or process.stderr is None:
            return process.communicate()
        told: list[bytes] = []

        def listen(stream: IO[bytes]) -> None:
            for line in stream:
                told.append(line)
                self._task.thing = line.decode("utf-8", "replace").strip()

        listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
        listener.start()
        out = process.stdout.read()
        process.wait()
        listener.join(GRACE_S)  # a grandchild may keep it open
        return out, b"".join(told)

    def stop(self) -> None:
        """Ask it to end as ctrl+c would, so that it tidies up; then make it."""
        with self._lock:
            process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        timer = threading.Timer(GRACE_S, process.kill)
        timer.daemon = True
        timer.start()

    def watch(self) -> None:
        """How far it has read its source: the kernel knows the place in every open file."""
        process, source = self._process, self._source
        if process is None or source is None:
            return
        place = _read_so_far(process.pid, source)
        if place is not None:
            self._task.phase, self._task.thing = "reading", source.name
            self._task.done, self._task.total = place, source.stat().st_size


def _read_so_far(pid: int, source: Path) -> int | None:
    """Bytes before the place of ``source`` in that process; None where it isn't open (Linux)."""
    folder = Path(f"/proc/{pid}")
    try:
        for link in (folder / "fd").iterdir():
            if os.readlink(link) == str(source):
                text = (folder / "fdinfo" / link.name).read_text()
                return int(text.split(None, 2)[1])
    except (OSError, ValueError, IndexError):
        return None  # it ended meanwhile, or this is no Linux: the bar is left out
    return None


def _answer(out: bytes, err: bytes, code: int) -> Any:
    """The printed JSON, or the error that it tells of."""
    try:
        found = json.loads(out or b"null")
    except ValueError:
        found = None
    if code == 0:
        return found
    told = found.get("error") if isinstance(found, dict) else None
    if isinstance(told, dict):
        raise ModelOpsError(
            str(told.get("what", "")), str(told.get("why", "")), str(told.get("hint", ""))
        )
    lines = err.decode("utf-8", "replace").strip().splitlines()
    raise ModelOpsError(f"the command ended with {code}", why=lines[-1] if lines else "")
