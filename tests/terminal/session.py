"""A program on a real pseudo-terminal: what it draws, how it ends, what it leaves behind."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

_ESCAPES = re.compile(
    rb"\x1b\[[0-9;:?<>=]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    rb"|\x1bP[^\x1b]*\x1b\\|\x1b[()][0-9A-B]|\x1b[@-Z\\-_=>78]"
)
#: How long anything on a busy machine may take.
PATIENCE_S = 120.0


class Session:
    """``argv`` with a controlling terminal of its own; close it in any case."""

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (80, 24),
    ) -> None:
        self.master, slave = os.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}
        base |= {"TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none", **(env or {})}
        for name in ("COLUMNS", "LINES", "SSH_CONNECTION"):
            base.pop(name, None)
        self.output = bytearray()
        self.times: list[tuple[float, int]] = []
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=base,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._slave = slave
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def workbench(
        cls,
        root: Path,
        *args: str,
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (80, 24),
    ) -> Session:
        """The whole program over one state directory."""
        argv = [sys.executable, "-m", "modelops_tui", *args]
        return cls(argv, {"MODELOPS_HOME": str(root), **(env or {})}, size)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                # looked at first: what it drew last may come between a look at the terminal and
                # one at the process
                ended = self.process.poll() is not None
                ready, _, _ = select.select([self.master], [], [], 0.2)
                if not ready:
                    if ended:
                        return
                    continue
                data = os.read(self.master, 65536)
            except (OSError, ValueError):
                return
            if not data:
                return
            self.times.append((time.monotonic(), len(data)))
            self.output += data

    @property
    def text(self) -> str:
        """All that was drawn so far, escapes left out."""
        return _ESCAPES.sub(b"", bytes(self.output)).decode("utf-8", "replace")

    def wait_for(self, text: str, since: int = 0) -> None:
        """Until ``text`` was drawn after ``since`` bytes of output."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            # what is drawn last is read before the reader ends, and so before this last look
            over = not self._reader.is_alive()
            drawn = _ESCAPES.sub(b"", bytes(self.output[since:])).decode("utf-8", "replace")
            if text in drawn:
                return
            if over:
                break
            time.sleep(0.05)
        raise AssertionError(
            f"{text!r} was not drawn; the end of the output: {self.text[-1500:]!r}"
        )

    def press(self, keys: str) -> int:
        """Send keys; returns how much was drawn before."""
        mark = len(self.output)
        os.write(self.master, keys.encode())
        return mark

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def signal_resize(self) -> None:
        os.kill(self.process.pid, signal.SIGWINCH)

    def end(self) -> int:
        """Wait for the program; its exit status (negative: killed by that signal)."""
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=PATIENCE_S)
        return code

    @property
    def restored(self) -> bool:
        """The terminal's modes are as they were, and the screen was given back."""
        same = termios.tcgetattr(self._slave)[:4] == self.before[:4]
        return same and b"\x1b[?1049l" in self.output[-4000:]

    def hang_up(self) -> None:
        """What a dropped SSH line does: both ends of the terminal are gone."""
        os.close(self._slave)
        self._slave = -1
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self._slave):
            if fd >= 0:
                os.close(fd)
        self.master = self._slave = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
