"""The doctor: everything jobs depend on, looked at once, each finding with what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata

from engine.daemon import space, systemd
from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.types.system import Check

MIB = 1 << 20
GIB = 1 << 30


_OTHER_STATE = "name another folder with --state or MODELOPS_HOME"


def examine(paths: StatePaths) -> tuple[Check, ...]:
    """Every check, in the order a person would ask."""
    checks: tuple[Callable[[StatePaths], Check], ...] = (
        _python,
        _state_directory,
        _disk,
        _store,
        _engine,
        _service,
        _kernel,
        _memory,
        _gpus,
        _torch,
        _compiler,
        _parts,
        _kinds,
    )
    return tuple(_run(check, paths) for check in checks)


def _run(check: Callable[[StatePaths], Check], paths: StatePaths) -> Check:
    try:
        return check(paths)
    except (ModelOpsError, OSError, sqlite3.Error) as error:
        hint = error.hint if isinstance(error, ModelOpsError) else ""
        return Check(check.__name__.strip("_").replace("_", " "), "problem", str(error), hint)


def _python(_: StatePaths) -> Check:
    detail = f"{sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < (3, 35):
        return Check("python", "problem", detail, "SQLite 3.35 or newer is needed")
    return Check("python", "ok", detail)


def _state_directory(paths: StatePaths) -> Check:
    name = "state directory"
    there = space.nearest_existing(paths.root)
    if not there.is_dir():
        detail = f"{paths.root} can't be a folder: {there} is none"
        return Check(name, "problem", detail, _OTHER_STATE)
    space.refuse_network_folder(there)
    try:
        # asked of the file system itself: permissions alone don't tell of a read-only mount
        with tempfile.TemporaryDirectory(prefix=".modelops-doctor-", dir=there):
            pass
    except OSError as error:
        detail = f"{paths.root} can't be written: {there}: {error.strerror or error}"
        return Check(name, "problem", detail, _OTHER_STATE)
    if there != paths.root:
        return Check(name, "ok", f"{paths.root} (made at first use)")
    status = paths.root.stat()
    kind = space.file_system_of(paths.root)
    detail = f"{paths.root} ({kind or 'unknown file system'})"
    if status.st_uid != os.getuid():
        return Check(name, "problem", f"{detail} belongs to another user", "use your own --state")
    if status.st_mode & 0o077:
        return Check(name, "warning", f"{detail} is open to others", f"chmod 700 {paths.root}")
    return Check(name, "ok", detail)


def _disk(paths: StatePaths) -> Check:
    folder = space.nearest_existing(paths.root)
    free, floor = space.free_bytes(folder), space.floor_bytes()
    detail = f"{free / GIB:.1f} GiB free, {floor / MIB:.0f} MiB are kept free"
    if free < floor:
        return Check("disk", "problem", detail, "jobs wait until there is room: free some space")
    if free < 10 * GIB:
        return Check("disk", "warning", detail, "a fine-tuned 7B model takes about 15 GiB")
    return Check("disk", "ok", detail)


def _store(paths: StatePaths) -> Check:
    from engine.store.schema import VERSION, open_store

    if not paths.jobs_db.exists():
        return Check("job store", "ok", "empty")
    conn = open_store(paths.jobs_db)
    try:
        problems = [row[0] for row in conn.execute("PRAGMA quick_check(3)")]
        count = conn.execute("SELECT count(*) FROM jobs").fetchone()[0]
    finally:
        conn.close()
    if problems != ["ok"]:
        hint = "restore the newest jobs.db.backup-* beside it"
        return Check("job store", "problem", "; ".join(problems), hint)
    return Check("job store", "ok", f"{count} jobs, schema version {VERSION}")


def _engine(paths: StatePaths) -> Check:
    from engine.daemon import client, protocol

    answer = client.hello(paths) if paths.root.exists() else None
    if answer is None:
        return Check("engine", "ok", "not running (started when it is needed)")
    detail = f"pid {answer['pid']}, version {answer['version']}"
    if answer["version"] != protocol.program_version():
        hint = "`modelops-tui engine restart` replaces it; runs go on"
        return Check("engine", "warning", detail, hint)
    return Check("engine", "ok", detail)


_LINGER = "`loginctl enable-linger` lets user services outlive the login"


def _service(_: StatePaths) -> Check:
    fit = systemd.fitness()
    if fit.installed and not fit.usable:
        detail = f"installed as {systemd.unit_path()}, but {fit.why}"
        hint = _LINGER if fit.user_bus else "log in with a user session, or remove the unit"
        return Check("service", "warning", detail, hint)
    if fit.installed:
        return Check("service", "ok", f"installed as {systemd.unit_path()}")
    if fit.usable:
        hint = "`modelops-tui engine install` starts the engine at boot"
        return Check("service", "ok", "a systemd user service is possible here", hint)
    detail = f"the engine is started detached from the terminal ({fit.why})"
    hint = _LINGER if fit.user_bus else ""
    return Check("service", "ok", detail, hint)


def _kernel(_: StatePaths) -> Check:
    release = os.uname().release
    number = tuple(int(p) for p in release.split("-")[0].split(".")[:2] if p.isdigit())
    if not hasattr(os, "pidfd_open") or number < (5, 3):
        return Check("kernel", "problem", release, "Linux 5.3 or newer is needed (pidfd)")
    return Check("kernel", "ok", f"Linux {release}")


def _memory(_: StatePaths) -> Check:
    from engine.devices.probe import ram

    memory = ram()
    cores = len(os.sched_getaffinity(0))
    detail = f"{memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free, {cores} CPU cores"
    if memory.total < 4 * GIB:
        return Check("memory", "warning", detail, "even the small model wants about 4 GiB")
    return Check("memory", "ok", detail)


def _gpus(_: StatePaths) -> Check:
    from engine.devices.probe import ENV_FAKE, gpus, why_no_gpu

    found = gpus()
    if os.environ.get(ENV_FAKE):
        detail = f"{len(found)} that ${ENV_FAKE} makes up, none of them real"
        return Check("gpu", "warning", detail, f"unset {ENV_FAKE}")
    if not found:
        return Check("gpu", "ok", f"none answers ({why_no_gpu()}): jobs run on the CPU")
    names = ", ".join(f"{gpu.name} ({gpu.memory_total / GIB:.0f} GiB)" for gpu in found)
    return Check("gpu", "ok", names)


def _torch(_: StatePaths) -> Check:
    from engine.devices.probe import gpus

    # the version only: importing torch takes seconds
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Check("torch", "problem", "not installed", "reinstall modelops-tui")
    if "+cpu" in version and gpus():
        hint = "install a CUDA build of the same version"
        return Check("torch", "warning", f"{version}: a CPU build beside a GPU", hint)
    return Check("torch", "ok", version)


def _compiler(_: StatePaths) -> Check:
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        hint = "torch.compile and backends built from source need one: install gcc"
        return Check("compiler", "warning", "no C compiler", hint)
    return Check("compiler", "ok", str(shutil.which(found)))


#: Optional libraries and programs, and what needs them.
_OPTIONAL = {
    "trl": "preference methods (DPO, KTO, ORPO, GRPO)",
    "snntorch": "the spiking reward head",
    "lm_eval": "standard benchmarks",
    "obstore": "remotes on S3",
    "fastapi": "the REST gateway",
}


def _parts(_: StatePaths) -> Check:
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    if shutil.which("uv") is None:
        missing.append("uv")
    if not missing:
        return Check("optional parts", "ok", "all there")
    needs = {**_OPTIONAL, "uv": "quicker isolated backends (without it pip makes them)"}
    detail = "not installed: " + "; ".join(f"{name}, for {needs[name]}" for name in missing)
    return Check("optional parts", "ok", detail, data={"missing": missing})


def _kinds(_: StatePaths) -> Check:
    from engine.kinds import load_kinds

    registry = load_kinds()
    broken = "; ".join(f"{b.name} ({b.plugin}): {b.reason}" for b in registry.broken)
    if broken:
        return Check("kinds", "problem", broken, "`modelops-tui plugin list` shows them")
    return Check("kinds", "ok", ", ".join(sorted(registry.kinds)))
