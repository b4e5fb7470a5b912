"""Installing a lock into a fresh environment: by uv where it is, else by venv and pip.

uv does not read pip's configuration, where users and administrators keep their indexes, wheel
folders and certificates; those settings are read from pip and handed on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.errors import MissingPart

Tell = Callable[[str], None]

#: pip's setting -> uv's flag
_SETTINGS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
}

_OFFLINE = re.compile(
    r"dns error|error sending request|connection (?:refused|reset|error)|network is unreachable"
    r"|temporary failure in name resolution|Failed to (?:fetch|resolve)|NewConnectionError"
    r"|network connectivity is disabled",
    re.IGNORECASE,
)
_COMPILER = re.compile(
    r"command '?(?:gcc|g\+\+|cc|cmake|nvcc)'? failed"
    r"|(?:gcc|g\+\+|cmake|nvcc): (?:command )?not found"
    r"|No CMAKE_\w+_COMPILER|unable to find .*compiler|error: linker",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"no version of|No matching distribution|not found in the package registry|No solution found",
    re.IGNORECASE,
)


def find_uv() -> str | None:
    """The uv program: the one installed beside this Python, else one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def install_lock(name: str, lock: Path, place: Path, tell: Tell) -> None:
    """Make a virtual environment at ``place`` with what ``lock`` names.

    The lock names every package but those torch itself pins for one kind of GPU.

    Raises:
        MissingPart: it can't be made; the reason is told apart (offline, compiler, version).
    """
    uv = find_uv()
    python = str(place / "bin" / "python")
    if uv is not None:
        commands = [
            [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "-r", str(lock), "--python", python, *_uv_flags()],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(place)],
            [python, "-m", "pip", "install", "-r", str(lock)],
        ]
    for command in commands:
        _run(name, command, tell)


def uninstall(name: str, packages: tuple[str, ...], place: Path, tell: Tell) -> None:
    """Remove packages from the environment at ``place``, though others ask for them.

    Raises:
        MissingPart: the installer refused.
    """
    uv = find_uv()
    python = str(place / "bin" / "python")
    if uv is not None:
        command = [uv, "pip", "uninstall", *packages, "--python", python]
    else:
        command = [python, "-m", "pip", "uninstall", "--yes", *packages]
    _run(name, command, tell)


def unpack_sdist(
    name: str, requirement: str, parts: tuple[str, ...], folder: Path, tell: Tell
) -> None:
    """Fetch a source distribution with pip and unpack some of its files, without building it.

    Raises:
        MissingPart: it can't be fetched, or a part is not in it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tell(f"fetching the source of {requirement}")
        options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--dest", scratch]
        _run(name, [sys.executable, "-m", "pip", "download", *options, requirement], tell)
        archive = next(Path(scratch).glob("*.tar.gz"), None)
        if archive is None:
            raise MissingPart(f"{requirement} has no source archive", why=f"in {scratch}")
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if _within(m.name.partition("/")[2], parts)]
            if not wanted:
                raise MissingPart(f"{requirement} does not hold {', '.join(parts)}")
            tar.extractall(folder, wanted, filter="data")


def _within(path: str, parts: tuple[str, ...]) -> bool:
    return any(path.startswith(p) if p.endswith("/") else path == p for p in parts)


def _run(name: str, command: list[str], tell: Tell) -> None:
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")},
        )
    except OSError as error:
        raise MissingPart(f"the backend {name} can't be installed", why=str(error)) from error
    with process:
        try:
            for line in process.stdout or ():
                text = line.rstrip()
                lines.append(text)
                if text and not text.startswith(" +"):
                    tell(text)
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status != 0:
        raise explain(name, "\n".join(lines))


def explain(name: str, log: str) -> MissingPart:
    """The error for a failed installation, from its log."""
    last = "\n".join([line for line in log.splitlines() if line.strip()][-6:])
    what = f"the backend {name} can't be installed"
    if _OFFLINE.search(log):
        return MissingPart(
            what,
            why=f"the package index can't be reached: {last}",
            hint="connect once to make the environment; afterwards it is used offline",
        )
    if _COMPILER.search(log):
        return MissingPart(
            what,
            why=f"a package must be compiled and there is no working compiler: {last}",
            hint="install a C++ compiler and cmake (Debian: apt install build-essential cmake)",
        )
    if _VERSION.search(log):
        return MissingPart(
            what,
            why=f"a locked version is not offered by your index: {last}",
            hint="check pip's index settings with: pip config list",
        )
    return MissingPart(what, why=last, hint=f"try again: modelops-tui backends install {name}")


def _uv_flags() -> list[str]:
    flags = ["--no-progress", "--index-strategy", "unsafe-best-match"]
    for key, value in pip_settings().items():
        for item in value.split():
            if key in ("index-url", "extra-index-url") or item not in flags:
                flags += [_SETTINGS[key], item]
    return flags


def pip_settings() -> dict[str, str]:
    """Pip's index settings, from its files and its environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        setting = key.rpartition(".")[2]
        if setting in _SETTINGS:
            found[setting] = f"{found.get(setting, '')} {value.strip(chr(39))}".strip()
    return found
