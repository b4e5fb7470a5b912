"""Heavy code on behalf of a screen or a shell: a child process that speaks JSON lines.

The caller's process never imports torch, lancedb or llama.cpp; it starts ``python -m
engine.worker.service <kind>`` once and calls the kind's ``actions`` by name. The child leaves when
its stdin closes, so nothing survives its caller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from engine.errors import (
    BadInput,
    Conflict,
    DoesNotFit,
    EngineUnavailable,
    IntegrityError,
    MissingPart,
    ModelOpsError,
    NotFound,
    OutOfSpace,
    Refused,
    StepFailed,
)
from engine.paths import StatePaths

_BY_CODE: dict[str, type[ModelOpsError]] = {
    kind.code: kind
    for kind in (
        BadInput,
        Conflict,
        DoesNotFit,
        EngineUnavailable,
        IntegrityError,
        MissingPart,
        NotFound,
        OutOfSpace,
        Refused,
        StepFailed,
    )
}


def error_from_json(record: dict[str, Any]) -> ModelOpsError:
    """The error a child reported, as the class it was raised as (unknown codes become the base)."""
    kind = _BY_CODE.get(str(record.get("code")), ModelOpsError)
    return kind(
        str(record.get("what", "the service failed")),
        str(record.get("why", "")),
        str(record.get("hint", "")),
    )


def child_environment(threads: int = 0) -> dict[str, str]:
    """The environment of a service process: offline, quiet, passive OpenMP waits.

    Spinning OpenMP threads beside another busy process cost a factor of 2 to 30 (measured), hence
    ``OMP_WAIT_POLICY=passive`` before torch is imported.
    """
    env = dict(os.environ)
    env.setdefault("OMP_WAIT_POLICY", "passive")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env.setdefault("HF_HUB_OFFLINE", "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    return env


class Service:
    """A service process of one kind; started at the first call, reused, closed with its owner.

    Calls are serialised: a second thread waits for the first one's stream to end.

    Args:
        kind: name of the kind whose ``actions`` are offered.
        paths: the state directory.
        threads: CPU threads for the child (0: the library's default).
    """

    def __init__(self, kind: str, paths: StatePaths, threads: int = 0) -> None:
        self.kind = kind
        self.paths = paths
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._next_id = 0

    @property
    def pid(self) -> int | None:
        """Process id of the running child, or None."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    def call(self, action: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Run an action; yields its events and last ``{"result": ...}``.

        Closing the iterator early cancels the action.

        Raises:
            ModelOpsError: what the action raised, as its own class.
            EngineUnavailable: the child died; the reason holds the end of its log.
        """
        with self._lock:
            process = self._ensure()
            self._next_id += 1
            call_id = self._next_id
            self._send(process, {"id": call_id, "action": action, "params": params})
            ended = False
            try:
                for record in self._records(process, call_id):
                    if "error" in record:
                        ended = True
                        raise error_from_json(record["error"])
                    if "result" in record:
                        ended = True
                        yield {"result": record["result"]}
                        return
                    yield record["event"]
                ended = True
                # its stdout is closed: wait for the rest, or the next call would meet a corpse
                self.close()
                raise EngineUnavailable(
                    f"the {self.kind} service ended in the middle of {action!r}",
                    why=self._log_tail(),
                )
            finally:
                if not ended:
                    self._cancel(process, call_id)

    def result(self, action: str, **params: Any) -> Any:
        """Run an action, drop its events and return its result."""
        value = None
        for record in self.call(action, **params):
            value = record.get("result", value)
        return value

    def close(self) -> None:
        """End the child: close its stdin, wait a moment, then kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _log(self) -> str:
        return str(self.paths.cache / f"service-{self.kind}.log")

    def _ensure(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.paths.ensure()
        self.paths.cache.mkdir(exist_ok=True)
        env = child_environment(self._threads)
        env["MODELOPS_HOME"] = str(self.paths.root)
        with open(self._log, "wb") as log:
            # own session: a ctrl+c in the caller's terminal must not kill an answer half way
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.worker.service", self.kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        return self._process

    def _send(self, process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
        try:
            if process.stdin is None:
                raise BrokenPipeError
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise EngineUnavailable(
                f"the {self.kind} service is gone", why=self._log_tail()
            ) from error

    def _records(self, process: subprocess.Popen[bytes], call_id: int) -> Iterator[dict[str, Any]]:
        if process.stdout is None:
            return
        for line in process.stdout:
            record = json.loads(line)
            if record.get("id") == call_id:
                yield record

    def _cancel(self, process: subprocess.Popen[bytes], call_id: int) -> None:
        with suppress(EngineUnavailable):
            self._send(process, {"cancel": call_id})

    def _log_tail(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                lines = [line.rstrip() for line in log if line.strip()]
        except OSError:
            return ""
        return "\n".join(lines[-5:])
