"""The main loop: sleeps until the doorbell, a dying shim, a client or a timer has something for it.

Idle, it wakes every 2 s for one ``PRAGMA data_version``; with runs going on, once a second.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
from contextlib import suppress

from engine.daemon.doorbell import drain, open_doorbell
from engine.daemon.engine import Engine
from engine.daemon.server import ControlServer
from engine.daemon.settings import MIB, EngineSettings
from engine.daemon.sweeping import sweep_run_folders
from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.store.schema import open_store
from engine.telemetry.logcap import cap_log

_log = logging.getLogger(__name__)

SWEEP_S = 2.0
FOLLOW_S = 1.0
#: The engine leaves after so many failed turns in a row; the next starter gets a fresh one.
MAX_FAILURES = 10
#: A tree whose shim is dead dies within milliseconds; its lock is asked again so soon.
DYING_S = 0.02


class MainLoop:
    """Runs an ``Engine`` until it is told to leave. The caller holds ``engine.lock``."""

    def __init__(self, paths: StatePaths, settings: EngineSettings) -> None:
        self._paths = paths
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._leaving = threading.Event()
        self._watched: dict[int, tuple[str, int]] = {}
        self._dying_until = 0.0
        self._follow_due = 0.0
        self.engine = Engine(paths, settings, self.wake)
        self._bell: socket.socket = open_doorbell(paths)
        self._server = ControlServer(paths, self.engine, self.leave)

    def wake(self) -> None:
        """Look again at once; callable from any thread."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def leave(self) -> None:
        """End the loop; callable from any thread and from signal handlers."""
        self._leaving.set()
        self.wake()

    def run(self) -> None:
        """Serve until ``leave``."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.leave())
        # a hang-up of the terminal that started us is not for us
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._bell, selectors.EVENT_READ, "bell")
        self._selector.register(self._wake_read, selectors.EVENT_READ, "wake")
        try:
            self.engine.start()
            self._server.start()
            _log.info("ready")
            threading.Thread(target=self._sweep_folders, name="sweep", daemon=True).start()
            failures = 0
            while not self._leaving.is_set():
                try:
                    self._turn()
                    failures = 0
                except Exception:
                    # one broken job must not stop all others; what is broken for good ends it
                    _log.exception("a turn of the main loop failed")
                    failures += 1
                    if failures >= MAX_FAILURES:
                        raise
                    time.sleep(SWEEP_S)
        finally:
            self._close()

    def _turn(self) -> None:
        self._watch_shims()
        ready = self._selector.select(self._timeout())
        force = False
        for key, _ in ready:
            if key.data == "bell":
                drain(self._bell)
                force = True
            elif key.data == "wake":
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            else:
                # the shim is gone: never ready again, the lock tells the rest
                self._selector.unregister(key.fd)
                self._dying_until = time.monotonic() + SWEEP_S
        if self._leaving.is_set():
            return
        self.engine.sweep(force=force)
        if self.engine.running and time.monotonic() >= self._follow_due:
            self._follow_due = time.monotonic() + FOLLOW_S
            self.engine.follow()
            self._keep_house()
        self.engine.tell_ends()
        self.engine.keep_spare()

    def _timeout(self) -> float:
        if time.monotonic() < self._dying_until and self._some_are_dying():
            return DYING_S
        return FOLLOW_S if self.engine.running else SWEEP_S

    def _watch_shims(self) -> None:
        """Register the shims' descriptors, so that an end is seen at once."""
        with self.engine.mutex:
            current = {
                r.pidfd: key for key, r in self.engine.running.items() if r.pidfd is not None
            }
        for fd in [fd for fd, key in self._watched.items() if current.get(fd) != key]:
            with suppress(KeyError, ValueError):
                self._selector.unregister(fd)
            del self._watched[fd]
        for fd, key in current.items():
            if fd not in self._watched:
                self._selector.register(fd, selectors.EVENT_READ, "shim")
                self._watched[fd] = key

    def _some_are_dying(self) -> bool:
        """True while an attempt's shim is gone but its lock is still held."""
        registered = self._selector.get_map()
        return any(fd not in registered for fd in self._watched)

    def _sweep_folders(self) -> None:
        """Once, beside the work: garbage of a crash may take its time to go."""
        with suppress(ModelOpsError, OSError):
            conn = open_store(self._paths.jobs_db)
            try:
                sweep_run_folders(conn, self._paths)
            finally:
                conn.close()

    def _keep_house(self) -> None:
        """About once a second while something runs, once a sweep else."""
        cap = int(self.engine.settings.log_cap_mib * MIB)
        for job_id in {job_id for job_id, _ in self.engine.running}:
            try:
                cap_log(self._paths.job_log(job_id), cap)
            except OSError as error:
                _log.warning("the log of job %s could not be capped: %s", job_id, error)

    def _close(self) -> None:
        self._server.close()
        self._bell.close()
        with suppress(OSError):
            self._paths.doorbell.unlink()
        self.engine.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
