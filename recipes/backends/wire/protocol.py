"""The worker's side of the backend protocol: JSON lines on stdin and stdout, nothing else.

A worker calls ``serve(quantize=..., load=...)``. ``quantize(request, tell)`` writes a model folder
and returns facts; ``load(folder, request)`` returns a causal language model in evaluation mode,
from which ``measure`` and ``answer`` are done here, the same way for every backend (one that loads
no torch module brings its own ``answer``). Python 3.11 and its standard library only at module
scope: this file runs in environments that are not ours.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]
Quantize = Callable[[dict[str, Any], Tell], dict[str, Any]]
Load = Callable[[Path, dict[str, Any]], Any]
Answer = Callable[[dict[str, Any], Tell], dict[str, Any]]

_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A failure with its reason and advice; anything else is reported by its type and text."""

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint


def serve(*, quantize: Quantize, load: Load, answer: Answer | None = None) -> None:
    """Answer calls until stdin closes; the process ends at once then, whatever it is doing."""
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print; the wire is ours alone
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for place in os.environ.get("MODELOPS_BACKEND_PATH", "").split(os.pathsep):
        if place:
            sys.path.append(place)
    calls = _Calls()
    threading.Thread(target=calls.read, name="stdin", daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        wire.write(json.dumps(message).encode() + b"\n")

    def tell(event: dict[str, Any]) -> None:
        say({"event": event})

    while True:
        call = calls.next()
        try:
            if call["call"] == "quantize":
                say({"result": _timed(quantize, call["params"], tell)})
            elif call["call"] == "measure":
                say({"result": _measure(load, call["params"], tell)})
            elif call["call"] == "answer":
                say({"result": (answer or _answering(load))(call["params"], tell)})
            else:
                raise WorkerError(f"unknown action {call['call']!r}")
        except WorkerError as error:
            say({"error": {"what": error.what, "why": error.why, "hint": error.hint}})
        except MemoryError as error:
            say({"error": {"code": "does_not_fit", "what": "out of memory", "why": str(error)}})
        except Exception as error:  # noqa: BLE001  whatever a library raises is the answer
            traceback.print_exc()
            code = "does_not_fit" if "out of memory" in str(error).lower() else "error"
            why = f"{type(error).__name__}: {error}"
            say({"error": {"code": code, "what": f"{call['call']} failed", "why": why}})


class _Calls:
    """Reads stdin in a thread, so that the end of the parent is seen during long work."""

    def __init__(self) -> None:
        self._ready = threading.Semaphore(0)
        self._items: list[dict[str, Any]] = []

    def read(self) -> None:
        for line in sys.stdin.buffer:
            self._items.append(json.loads(line))
            self._ready.release()
        os._exit(0)

    def next(self) -> dict[str, Any]:
        self._ready.acquire()
        return self._items.pop(0)


def _timed(quantize: Quantize, params: dict[str, Any], tell: Tell) -> dict[str, Any]:
    began, cpu = time.monotonic(), time.process_time()
    facts = quantize(params, tell)
    return {
        **facts,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": peak_memory(),
    }


def peak_memory() -> int:
    """The process's largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def calibration(request: dict[str, Any]) -> list[list[int]]:
    """The calibration windows, as token ids (tokenized by the main environment)."""
    with open(request["calibration"], encoding="utf-8") as file:
        rows: list[list[int]] = json.load(file)
    return rows


def _answering(load: Load) -> Answer:
    """Answers without a measurement; with their distributions where a file for them is named."""

    def answer(params: dict[str, Any], tell: Tell) -> dict[str, Any]:
        from recipes.measuring.proof import answer as ask
        from recipes.measuring.proof import save_answers
        from recipes.measuring.torch_model import TorchScorer

        tell({"phase": "loading the model"})
        scorer = TorchScorer(load(Path(params["folder"]), params))
        found = ask(
            scorer,
            list(zip(params["texts"], params["prompts"], strict=True)),
            int(params["count"]),
            params["stops"],
        )
        if params.get("keep"):
            save_answers(Path(params["keep"]), found)
        return {"answers": [list(a.tokens) for a in found], "tokens_per_s": 0.0}

    return answer


def _measure(load: Load, params: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from recipes.measuring.measure import Reference, Windows
    from recipes.measuring.torch_model import TorchScorer

    tell({"phase": "loading the result"})
    model = load(Path(params["folder"]), params)
    scorer = TorchScorer(model, int(params["n_vocab"]))
    measured = []
    for text in params["texts"]:
        windows = Windows(text["name"], tuple(tuple(w) for w in text["windows"]))
        reference = Reference(windows, Path(params["references"]), scorer.n_vocab)
        found = reference.measure(
            scorer,
            lambda done, total: tell({"done": done, "total": total, "unit": "tokens"}),
            lambda: None,
        )
        measured.append(found.to_json())
    answers = []
    tokens, seconds = 0, 0.0
    for prompt in params["prompts"]:
        began = time.perf_counter()
        given = scorer.generate(prompt, int(params["count"]), params["stops"])
        seconds += time.perf_counter() - began - scorer.prompt_seconds
        tokens += len(given) - 1
        answers.append(given)
    return {
        "measured": measured,
        "answers": answers,
        "tokens_per_s": tokens / seconds if tokens > 0 and seconds > 0 else 0.0,
        "peak_memory_bytes": peak_memory(),
    }
