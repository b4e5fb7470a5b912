"""Isolated backends: libraries that can't share the main environment, each in its locked own one.

A backend is a folder with ``backend.toml``, ``requirements.lock`` and ``worker.py``; see
``docs/backends.md``. This package finds them, makes and mends their environments, and speaks to
their workers. What the workers do is the business of the recipes that call them.
"""

from __future__ import annotations

from engine.backends.environment import BackendState, BackendStore
from engine.backends.process import BackendProcess
from engine.backends.spec import BackendSpec, discover, find

__all__ = ["BackendProcess", "BackendSpec", "BackendState", "BackendStore", "discover", "find"]
