"""One attempt from ``spec.json`` to ``result.json``: what the worker does around the step."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import BadInput, ModelOpsError, Outdated
from engine.kinds import Kind, code_version, load_function, load_kind
from engine.paths import StatePaths
from engine.supervise.crash import crash_point
from engine.supervise.durable import read_json, write_json_durably
from engine.worker.context import StepContext, StepResult, Stopped

if TYPE_CHECKING:
    from pydantic import ValidationError

_ENV_REFERENCE = re.compile(r"\$\$\{|\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")

#: The worker's exit status when the disk was full: the job waits for space and goes on.
EXIT_NO_SPACE = 74

#: How much likelier than others the kernel's OOM killer picks the worker (-1000 to 1000).
OOM_SCORE_ADJ = 600


def run_attempt(folder: Path, stop: threading.Event) -> None:
    """Run the step of ``folder/spec.json`` and write ``result.json``, whatever happens in it."""
    spec = read_json(folder / "spec.json")
    if spec is None:
        raise SystemExit(f"there is no spec.json in {folder}")
    prefer_for_oom_kill()
    result = attempt_result(spec, stop)
    crash_point("worker.before-result")
    try:
        write_json_durably(folder / "result.json", {"attempt": spec["attempt"], **result})
    except OSError as error:
        leave(EXIT_NO_SPACE if is_no_space(error) else 1)
    crash_point("worker.after-result")
    leave(0)


def log(*lines: str) -> None:
    """Write to the job's log (stderr); a disk too full for it must not hide the reason."""
    with suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def leave(status: int) -> NoReturn:
    """End the process at once: finalizers of big libraries may hang or crash."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def is_no_space(error: BaseException) -> bool:
    """True when ``error`` or what caused it is a full disk (libraries wrap the OSError)."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(current):
            return True
        current = current.__cause__ or current.__context__
    return False


def attempt_result(spec: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    """The body of ``result.json``: ``state`` is succeeded, failed or stopped."""
    context: StepContext | None = None
    try:
        kind = load_kind(spec["kind"])
        context = make_context(spec, kind, stop)
        context.event("begun", state="running", reason=spec.get("reason", ""))
        crash_point("worker.begun")
        value = load_function(kind.run)(context)
        crash_point("worker.ran")
        told = value.peak_memory_bytes if isinstance(value, StepResult) else None
        return {**_succeeded(kind, value), "peak_memory_bytes": told or peak_device_memory()}
    except Stopped as stopped:
        return {"state": "stopped", "error": stopped.to_json()}
    except ModelOpsError as error:
        hint = error.hint and f"hint: {error.hint}"
        log(f"error: {error.what}", *(f"  {text}" for text in (error.why, hint) if text))
        return {"state": "failed", "error": error.to_json()}
    except Exception as error:  # noqa: BLE001  a step may raise anything: the log keeps the trace
        log(traceback.format_exc())
        if is_no_space(error):
            leave(EXIT_NO_SPACE)
        return {"state": "failed", "error": _unexpected(spec, error)}
    finally:
        if context is not None:
            with suppress(OSError):  # a full disk must not undo what the step has done
                context.tell_progress()


def _succeeded(kind: Kind, value: object) -> dict[str, Any]:
    if not isinstance(value, StepResult):
        raise TypeError(f"{kind.run} returned {type(value).__name__}, not a StepResult")
    unknown = sorted(set(value.outputs) - set(kind.outputs))
    if unknown:
        raise TypeError(f"{kind.run} returned outputs its kind does not name: {unknown}")
    return {
        "state": "succeeded",
        "outputs": _plain(dict(value.outputs)),
        "report": _plain([dict(table) for table in value.report]),
        "code_version": code_version(kind),
    }


def _unexpected(spec: Mapping[str, Any], error: Exception) -> dict[str, str]:
    text = str(error).strip().splitlines()
    return {
        "code": "error",
        "what": f"step {spec['step']!r} failed with {type(error).__name__}",
        "why": text[0][:500] if text else "",
        "hint": f"`modelops-tui jobs log {spec['job_id']}` shows the traceback",
    }


def make_context(spec: Mapping[str, Any], kind: Kind, stop: threading.Event) -> StepContext:
    """The step's context; parameters are validated again, with secrets from the environment.

    Raises:
        BadInput: a variable is not set, or a filled-in value does not fit the kind's schema.
        Outdated: the kind's schema has changed since the job was accepted, and no longer takes
            the parameters it was accepted with.
    """
    from pydantic import ValidationError

    try:
        params = kind.model.model_validate(resolve_env(spec["params"]))
    except ValidationError as error:
        version = code_version(kind)
        first = error.errors()[0]
        if spec.get("code_version") not in (None, version):
            raise _outdated(spec, version, error) from error
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"step {spec['step']!r}: the value of {where or 'its parameters'} is not valid",
            why=str(first["msg"]),
            hint="an earlier step's output may be of another type than this key expects",
        ) from error
    paths = StatePaths(Path(spec["home"]))
    recipe_dir = spec.get("recipe_dir")
    return StepContext(
        job_id=spec["job_id"],
        job_name=spec["job_name"],
        step=spec["step"],
        attempt=spec["attempt"],
        kind=spec["kind"],
        params=params,
        paths=paths,
        work_dir=Path(spec["work_dir"]),
        recipe_sha256=spec["recipe_sha256"],
        recipe_dir=Path(recipe_dir) if recipe_dir else None,
        threads=spec["threads"],
        device=spec["device"],
        step_key=spec["step_key"],
        _stop=stop,
    )


def _outdated(spec: Mapping[str, Any], version: str, error: ValidationError) -> Outdated:
    """The job runs with what it was accepted with or not at all; a key is never dropped quietly."""
    misfits = [
        f"`{'.'.join(str(part) for part in each['loc']) or 'the parameters'}`: {each['msg']}"
        for each in error.errors()
    ]
    job = spec["job_id"]
    return Outdated(
        f"this version of kind {spec['kind']!r} can't run step {spec['step']!r}"
        " with the parameters it was accepted with",
        why="; ".join(misfits) + f" (accepted by code {spec['code_version']}, this is {version})",
        hint=f"`modelops-tui jobs recipe {job}` prints its recipe: correct it and submit it again,"
        " or run the job with the version that accepted it",
    )


def resolve_env(value: Any) -> Any:
    """``value`` with every ``${env:NAME}`` replaced, at any depth; ``$${`` becomes ``${``.

    Raises:
        BadInput: the variable is not set in this environment.
    """
    if isinstance(value, str):
        return _ENV_REFERENCE.sub(_variable, value)
    if isinstance(value, list):
        return [resolve_env(item) for item in value]
    if isinstance(value, dict):
        return {key: resolve_env(item) for key, item in value.items()}
    return value


def _variable(match: re.Match[str]) -> str:
    name = match.group(1)
    if name is None:
        return "${"
    if name not in os.environ:
        raise BadInput(
            f"the environment variable {name} is not set",
            why="the recipe refers to it, and the engine that runs the job does not have it",
            hint=f"export {name}, then `modelops-tui engine restart` and retry the job",
        )
    return os.environ[name]


def prefer_for_oom_kill() -> None:
    """Let the kernel take this process first when memory runs out: it can resume, others can't."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE_ADJ))
    except OSError as error:
        log(f"note: oom_score_adj could not be raised: {error}")


def peak_device_memory() -> int | None:
    """Peak bytes torch had allocated on the GPU, when torch was used on one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())


def _plain(value: Any) -> Any:
    """``value`` as JSON allows it: NaN and infinities become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "item"):
        # a numpy or torch scalar
        return _plain(value.item())
    return str(value)
