"""A backend's worker process: started isolated, spoken to in JSON lines, never left behind.

One call is answered by any number of ``{"event": ...}`` lines and then ``{"result": ...}`` or
``{"error": {code, what, why, hint}}``. Large things (tokens, weights) go through files named in the
call. The worker leaves when its stdin closes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.backends.environment import clean_environment
from engine.backends.spec import BackendSpec, wire_folder
from engine.errors import DoesNotFit, ModelOpsError, StepFailed

#: Seconds a worker gets to leave after its stdin closed.
_LEAVE_S = 5.0


class BackendProcess:
    """One worker; a context manager.

    Args:
        spec: the backend.
        python: the interpreter of its environment.
        log: where its stderr and anything it prints goes.
        threads: CPU threads it may use.
        extra_path: folders appended to the worker's module search path.
    """

    def __init__(
        self,
        spec: BackendSpec,
        python: Path,
        log: Path,
        *,
        threads: int = 1,
        extra_path: tuple[Path, ...] = (),
    ) -> None:
        self.spec = spec
        self.log = log
        env = {
            **clean_environment(),
            "OMP_NUM_THREADS": str(max(threads, 1)),
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # where a plugin's worker finds protocol.py: its own folder is elsewhere
            "MODELOPS_WIRE": str(wire_folder()),
            "MODELOPS_BACKEND_PATH": os.pathsep.join(str(p) for p in extra_path),
        }
        with open(log, "ab") as stderr:
            # a session of its own: a signal to our group must not cut a file in half; it leaves
            # when our end of its stdin closes, however we end
            self._process = subprocess.Popen(
                [str(python), "-I", "-u", str(spec.worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                start_new_session=True,
            )
        self._buffer = b""

    def call(
        self,
        action: str,
        params: dict[str, Any],
        on_event: Callable[[dict[str, Any]], None] = lambda _event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Run one action to its end.

        Raises:
            InterruptedError: ``should_stop`` became true; the worker was ended.
            ModelOpsError: what the worker reported, or how it died.
        """
        self._send({"call": action, "params": params})
        while True:
            if should_stop():
                self.kill()
                raise InterruptedError(f"{self.spec.name} was asked to stop")
            line = self._line(0.2)
            if line is None:
                continue
            if line == b"":
                raise self._died()
            message = json.loads(line)
            if "event" in message:
                on_event(message["event"])
            elif "error" in message:
                raise self._error(message["error"])
            else:
                result: dict[str, Any] = message["result"]
                return result

    def close(self) -> None:
        """Let the worker leave, end it where it does not."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def kill(self) -> None:
        """End the worker and everything it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            if self._process.stdin is None:
                raise BrokenPipeError
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error

    def _line(self, timeout: float) -> bytes | None:
        """The next line; None: nothing yet; empty: the worker is gone."""
        while b"\n" not in self._buffer:
            stdout = self._process.stdout
            if stdout is None:
                return b""
            readable, _, _ = select.select([stdout], [], [], timeout)
            if not readable:
                return None
            data = os.read(stdout.fileno(), 1 << 16)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> ModelOpsError:
        status = self._process.wait()
        tail = self.log_tail()
        if status == -signal.SIGKILL:
            return DoesNotFit(
                f"{self.spec.name} was killed, most likely for want of memory",
                why=tail,
                hint="lower calibration.tokens or calibration.window, or use a smaller model",
            )
        return StepFailed(
            f"{self.spec.name} ended with status {status}",
            why=tail,
            hint=f"modelops-tui backends doctor {self.spec.name} tests its environment",
        )

    def _error(self, error: dict[str, str]) -> ModelOpsError:
        kind = DoesNotFit if error.get("code") == "does_not_fit" else StepFailed
        return kind(
            f"{self.spec.name}: {error.get('what', 'failed')}",
            error.get("why", "") or self.log_tail(),
            error.get("hint", ""),
        )

    def log_tail(self, lines: int = 6) -> str:
        """The last lines the worker wrote to stderr."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
