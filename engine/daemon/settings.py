"""The engine's own settings: the ``[engine]`` table of ``config.toml``, read at start."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from typing import Any

from engine.errors import BadInput
from engine.paths import StatePaths

MIB = 1 << 20


@dataclass(frozen=True)
class EngineSettings:
    """Each value may be set in ``config.toml`` under ``[engine]``."""

    grace_s: float = 60.0
    """Seconds between TERM and KILL when a job is cancelled or paused: one checkpoint must fit."""
    hub: bool = False
    """Let jobs reach the model hub (else ``HF_HUB_OFFLINE=1``)."""
    log_cap_mib: float = 256.0
    """A job's log keeps its first MiB and its newest part; the middle becomes a hole above this."""
    notify_command: str = ""
    """Run when a job ends (``$MODELOPS_JOB``, ``_NAME``, ``_STATE``, ``_REASON`` are set)."""
    notify_webhook: str = ""
    """An http(s) address that gets a JSON POST when a job ends."""
    max_interruptions: int = 10
    """A step whose worker was killed so often without a new checkpoint fails."""
    hot_spare: bool = False
    """Keep one worker started in advance (about 40 MB) so that the next job begins sooner."""
    hot_spare_imports: str = ""
    """Modules the spare imports in advance, separated by commas (``torch,transformers``)."""
    cpu_lanes: int = 1
    """How many jobs may run on the CPU at once."""

    @classmethod
    def load(cls, paths: StatePaths) -> EngineSettings:
        """Read the settings; without a file, the defaults.

        Raises:
            BadInput: the file is not TOML, or a value is not of its setting's type.
        """
        try:
            data = tomllib.loads(paths.config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{paths.config} can't be read", why=str(error)) from error
        return cls.from_table(data.get("engine", {}))

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> EngineSettings:
        """The settings of an ``[engine]`` table; what it leaves out has its default.

        Raises:
            BadInput: a value is not of its setting's type.
        """
        return cls(**{f.name: _checked(f.name, f.default, table) for f in fields(cls)})


def _checked(name: str, default: Any, table: dict[str, Any]) -> Any:
    value = table.get(name, default)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise BadInput(
            f"the setting engine.{name} is not valid",
            why=f"{value!r} is not a {type(default).__name__}",
            hint=f"`modelops-tui config set engine.{name} {default!r}` restores the default",
        )
    if isinstance(value, (int, float)) and value < 0:
        raise BadInput(f"the setting engine.{name} is not valid", why=f"{value} is below 0")
    return value


def worker_threads(wanted: int) -> int:
    """CPU threads for a step: what it asks for, at most the cores this process may use.

    ``OMP_NUM_THREADS`` in the engine's environment is the default for steps that do not ask.
    """
    cores = len(os.sched_getaffinity(0))
    if wanted > 0:
        return min(wanted, cores)
    inherited = os.environ.get("OMP_NUM_THREADS", "")
    return int(inherited) if inherited.isdigit() and int(inherited) > 0 else cores
