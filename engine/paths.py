"""Where everything lives: one state directory, private to its user.

The layout is described in ARCHITECTURE.md; nothing else in the program builds these paths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENV_HOME = "MODELOPS_HOME"


def default_state_dir() -> Path:
    """``$MODELOPS_HOME``, or ``modelops-tui`` under ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    explicit = os.environ.get(ENV_HOME)
    if explicit:
        return Path(explicit).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return (Path(base).expanduser() / "modelops-tui").absolute()


@dataclass(frozen=True)
class StatePaths:
    """Names of the files and folders under one state directory."""

    root: Path

    @classmethod
    def default(cls) -> StatePaths:
        return cls(default_state_dir())

    def ensure(self) -> StatePaths:
        """Create the directory with mode 0700 (parents by the umask) and return self."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        return self

    @property
    def jobs_db(self) -> Path:
        return self.root / "jobs.db"

    @property
    def queue_db(self) -> Path:
        return self.root / "queue.db"

    @property
    def engine_lock(self) -> Path:
        return self.root / "engine.lock"

    @property
    def engine_socket(self) -> Path:
        return self.root / "engine.sock"

    @property
    def doorbell(self) -> Path:
        return self.root / "doorbell.sock"

    @property
    def engine_log(self) -> Path:
        return self.root / "engine.log"

    @property
    def ballast(self) -> Path:
        return self.root / "ballast"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def kept(self) -> Path:
        return self.root / "kept"

    @property
    def indexes(self) -> Path:
        return self.root / "indexes"

    @property
    def backends(self) -> Path:
        return self.root / "backends"

    @property
    def serving(self) -> Path:
        return self.root / "serving"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    def run_dir(self, job_id: str) -> Path:
        return self.runs / job_id

    def job_log(self, job_id: str) -> Path:
        return self.runs / job_id / "log"

    def job_events(self, job_id: str) -> Path:
        return self.runs / job_id / "events.jsonl"

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        return self.runs / job_id / "attempts" / str(attempt)

    def step_work(self, job_id: str, step: str) -> Path:
        """Persists over the attempts of a step: checkpoints and scratch live here."""
        return self.runs / job_id / "steps" / step / "work"
