"""The child side of ``engine.service``: reads calls from stdin, runs a kind's actions, answers.

An action is ``fn(params, emit, paths) -> JSON``. Stdout carries the protocol alone: descriptor 1 is
moved away first, so that no library can print into it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from typing import IO, Any

from engine.errors import ModelOpsError, NotFound
from engine.kinds import load_function, load_kinds
from engine.paths import StatePaths


class _Cancelled(Exception):
    """The caller closed the stream of the running call."""


class _Server:
    def __init__(self, kind: str, wire: IO[bytes]) -> None:
        self._kind = load_kinds().get(kind)
        self._wire = wire
        self._paths = StatePaths.default()
        self._cancelled: set[int] = set()
        self._calls: queue.Queue[dict[str, Any]] = queue.Queue()

    def serve(self) -> None:
        threading.Thread(target=self._read, name="stdin", daemon=True).start()
        while True:
            self._run(self._calls.get())

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(int(message["cancel"]))
            else:
                self._calls.put(message)
        # the caller is gone: whatever runs now has no reader
        os._exit(0)

    def _run(self, call: dict[str, Any]) -> None:
        call_id = int(call["id"])

        def emit(event: dict[str, Any]) -> None:
            if call_id in self._cancelled:
                raise _Cancelled
            self._answer({"id": call_id, "event": event})

        try:
            name = str(call["action"])
            if name not in self._kind.actions:
                raise NotFound(
                    f"the kind {self._kind.name!r} has no action {name!r}",
                    why=f"it has: {', '.join(sorted(self._kind.actions)) or 'none'}",
                )
            value = load_function(self._kind.actions[name])(call["params"], emit, self._paths)
            self._answer({"id": call_id, "result": value})
        except _Cancelled:
            self._answer({"id": call_id, "error": {"code": "stopped", "what": "cancelled"}})
        except ModelOpsError as error:
            self._answer({"id": call_id, "error": error.to_json()})
        except Exception as error:  # noqa: BLE001  whatever an action raises is the answer to its call
            traceback.print_exc()
            reason = {"code": "error", "what": f"{self._kind.name} {call.get('action')} failed"}
            self._answer(
                {"id": call_id, "error": {**reason, "why": f"{type(error).__name__}: {error}"}}
            )
        finally:
            self._cancelled.discard(call_id)

    def _answer(self, message: dict[str, Any]) -> None:
        self._wire.write(json.dumps(message, ensure_ascii=False, default=str).encode() + b"\n")
        self._wire.flush()


def main() -> None:
    """Serve until stdin closes."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        server = _Server(sys.argv[1], wire)
    except ModelOpsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
    server.serve()


if __name__ == "__main__":
    main()
