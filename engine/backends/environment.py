"""Making, listing, mending and removing the locked environments of backends.

An environment lives at ``backends/<name>-<first 12 digits of the lock's hash>`` and counts as made
only when its ``ready.json`` is there, written last. A changed lock is a new environment beside the
old one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.backends.installer import install_lock, uninstall, unpack_sdist
from engine.backends.spec import BackendSpec, discover
from engine.errors import BadInput, MissingPart
from engine.paths import StatePaths

Tell = Callable[[str], None]


def _silent(_text: str) -> None:
    return None


@dataclass(frozen=True)
class BackendState:
    """A backend and how its environment stands here."""

    spec: BackendSpec
    state: str
    """``ready``, ``not installed``, ``broken`` (interrupted, damaged), ``main`` (always there)."""
    version: str
    """Of its main package, from the lock or the main environment."""
    path: Path | None
    bytes: int
    detail: str = ""


class BackendStore:
    """The environments under one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self.root = paths.backends

    def path(self, spec: BackendSpec) -> Path:
        """Where the environment of this lock lives."""
        return self.root / f"{spec.name}-{spec.lock_sha256[:12]}"

    def python(self, spec: BackendSpec) -> Path:
        """The interpreter that runs the backend's worker."""
        return Path(sys.executable) if spec.main else self.path(spec) / "bin" / "python"

    def ready(self, spec: BackendSpec) -> bool:
        """Whether the environment is whole (as far as its marker says)."""
        if spec.main:
            return True
        return self._marker(spec).is_file() and self.python(spec).exists()

    def list(self) -> tuple[BackendState, ...]:
        """Every backend and its state."""
        return tuple(self.state(spec) for spec in discover().values())

    def state(self, spec: BackendSpec) -> BackendState:
        """One backend's state, from its files only."""
        version = locked_version(spec)
        if spec.main:
            return BackendState(spec, "main", version, None, 0)
        place = self.path(spec)
        if self.ready(spec):
            return BackendState(spec, "ready", version, place, folder_bytes(place))
        if place.exists():
            return BackendState(
                spec, "broken", version, place, folder_bytes(place), "its installation did not end"
            )
        return BackendState(spec, "not installed", version, None, 0)

    def ensure(self, spec: BackendSpec, tell: Tell = _silent) -> Path:
        """The interpreter of a ready environment, made now where it is missing.

        Two processes that ask at once make it once (flock).

        Raises:
            MissingPart: it can't be made: offline, no compiler, no such version; with the log's
                decisive lines. Nothing half-made counts as ready.
        """
        if self.ready(spec):
            return self.python(spec)
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked(spec):
            if not self.ready(spec):
                self._make(spec, tell)
        return self.python(spec)

    def install(self, spec: BackendSpec, tell: Tell = _silent, *, again: bool = False) -> Path:
        """Like ``ensure``; ``again`` makes a sound environment anew, too."""
        if again and not spec.main:
            self.remove(spec)
        return self.ensure(spec, tell)

    def remove(self, spec: BackendSpec) -> int:
        """Delete every environment of the backend, of older locks too; the bytes that were freed.

        Raises:
            BadInput: the backend lives in the main environment.
        """
        if spec.main:
            raise BadInput(
                f"{spec.name} can't be removed", why="it is part of the main environment"
            )
        freed = 0
        if not self.root.is_dir():
            return 0
        with self._locked(spec):
            for place in sorted(self.root.glob(f"{spec.name}-{'[0-9a-f]' * 12}")):
                freed += folder_bytes(place)
                (place / "ready.json").unlink(missing_ok=True)
                shutil.rmtree(place)
        return freed

    def doctor(self, spec: BackendSpec) -> BackendState:
        """The state after really importing the backend in its environment."""
        state = self.state(spec)
        if state.state not in ("ready", "main"):
            return state
        done = subprocess.run(
            [str(self.python(spec)), "-I", "-c", spec.probe],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=clean_environment(),
        )
        if done.returncode == 0:
            return state
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return BackendState(spec, "broken", state.version, state.path, state.bytes, last)

    def _make(self, spec: BackendSpec, tell: Tell) -> None:
        place = self.path(spec)
        shutil.rmtree(place, ignore_errors=True)
        free = shutil.disk_usage(self.root).free
        if free < (spec.size_mb + 256) << 20:
            raise MissingPart(
                f"no room for the backend {spec.name}",
                why=f"it takes about {spec.size_mb} MB, {free >> 20} MB are free",
            )
        began = time.monotonic()
        tell(f"making the environment of {spec.name} ({spec.title}), about {spec.size_mb} MB")
        try:
            install_lock(spec.name, spec.lock, place, tell)
            if spec.drop:
                uninstall(spec.name, spec.drop, place, tell)
            if spec.sdist:
                unpack_sdist(spec.name, spec.sdist, spec.sdist_parts, place / "sdist", tell)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        marker = {"lock_sha256": spec.lock_sha256, "seconds": round(time.monotonic() - began, 1)}
        self._write_marker(spec, marker)
        tell(f"{spec.name} is ready ({marker['seconds']} s)")

    def _marker(self, spec: BackendSpec) -> Path:
        return self.path(spec) / "ready.json"

    def _write_marker(self, spec: BackendSpec, value: object) -> None:
        target = self._marker(spec)
        partial = target.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)

    @contextmanager
    def _locked(self, spec: BackendSpec) -> Iterator[None]:
        with open(self.root / f".{spec.name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def clean_environment() -> dict[str, str]:
    """The environment variables of a backend's process: nothing that points into another Python."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "VIRTUAL_ENV", "CONDA"))
    }


def locked_version(spec: BackendSpec) -> str:
    """The version of the backend's main package."""
    if spec.main:
        from importlib import metadata

        try:
            return metadata.version(spec.package)
        except metadata.PackageNotFoundError:
            return "missing"
    for line in spec.lock.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name.strip().lower().replace("_", "-") == spec.package:
            return version.split(";")[0].strip()
    return "?"


def folder_bytes(folder: Path) -> int:
    """Bytes of the files under ``folder``; files shared with the installer's cache are counted."""
    total = 0
    for base, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except FileNotFoundError:  # removed meanwhile by another process
                continue
    return total
