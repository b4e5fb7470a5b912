"""The engine as a systemd user service: the better way where linger and a user bus are there."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelOpsError, Refused
from engine.paths import ENV_HOME, StatePaths, default_state_dir
from engine.supervise.durable import write_durably

UNIT = "modelops-engine.service"

#: One file a user whose services outlive the login.
LINGER = Path("/var/lib/systemd/linger")

_TEMPLATE = """\
[Unit]
Description=ModelOps TUI engine

[Service]
Type=exec
ExecStart="{python}" -P -m engine.daemon
Environment={home}
{path_line}
# runs go on when the engine is replaced; the next engine adopts them
KillMode=process
Restart=on-failure
RestartSec=1
# 75: another engine runs already
RestartPreventExitStatus=75
StandardInput=null
StandardOutput=append:{log}
StandardError=append:{log}
UMask=0077
# the engine must outlive a job that eats all memory
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class Fitness:
    """Whether a user service can carry the engine here."""

    user_bus: bool
    linger: bool
    installed: bool
    why: str

    @property
    def usable(self) -> bool:
        return self.user_bus and self.linger


def unit_path() -> Path:
    """Where the unit file lives."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "systemd" / "user" / UNIT


def fitness() -> Fitness:
    """Look for a user bus and for linger (services that outlive the login)."""
    installed = unit_path().exists()
    if shutil.which("systemctl") is None:
        return Fitness(False, False, installed, "systemctl is not installed")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    if not Path(runtime, "bus").exists() and not Path(runtime, "systemd", "private").exists():
        return Fitness(False, False, installed, f"there is no user bus in {runtime}")
    linger = (LINGER / getpass.getuser()).exists()
    why = "" if linger else "linger is off: user services end with the last login"
    return Fitness(True, linger, installed, why)


def unit_text(paths: StatePaths) -> str:
    """The unit file for this installation and state directory."""
    python_path = os.environ.get("PYTHONPATH")
    return _TEMPLATE.format(
        python=sys.executable,
        home=_quoted(f"{ENV_HOME}={paths.root}"),
        path_line=f"Environment={_quoted(f'PYTHONPATH={python_path}')}" if python_path else "",
        log=paths.engine_log,
    )


def install(paths: StatePaths) -> Path:
    """Write, enable and start the unit.

    Raises:
        Refused: no user bus here; the detached start works without it.
        ModelOpsError: systemctl refused.
    """
    fit = fitness()
    if not fit.user_bus:
        raise Refused(
            "the engine can't be installed as a user service here",
            why=fit.why,
            hint="nothing is needed: `modelops-tui engine start` detaches it from the terminal",
        )
    if paths.root != default_state_dir():
        raise Refused(
            "only the default state directory can be installed as a service",
            why=f"{paths.root} was named by --state",
        )
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, unit_text(paths).encode(), mode=0o644)
    from engine.daemon import client

    client.stop(paths)
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT)
    return path


def start_installed(paths: StatePaths) -> bool:
    """Let systemd start the engine where the unit is installed; False: detach it ourselves."""
    if paths.root != default_state_dir() or not unit_path().exists():
        return False
    fit = fitness()
    if not fit.user_bus:
        return False
    try:
        _systemctl("start", UNIT)
    except ModelOpsError:
        return False
    return True


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(
        ["systemctl", "--user", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ModelOpsError(
            f"systemctl --user {' '.join(arguments)} failed",
            why=done.stderr.strip(),
            hint="`journalctl --user -u modelops-engine` may say more",
        )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
