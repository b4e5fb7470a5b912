"""Asking a kind what a step will need before it runs. Importing a kind's estimate may be heavy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from engine.errors import ModelOpsError
from engine.kinds import Kind, load_function
from engine.paths import StatePaths
from engine.types.system import Estimate, EstimateContext

_log = logging.getLogger(__name__)


def estimate_step(
    kind: Kind, params: Mapping[str, Any], paths: StatePaths, device: str = "auto"
) -> Estimate | None:
    """What a step of ``kind`` needs, or None where the kind can't tell.

    Args:
        kind: the step's kind; its ``estimate`` function is called.
        params: the resolved parameters (no references left).
        paths: the state directory, for model references.
        device: ``auto``, ``cpu`` or ``gpu``.
    """
    if kind.estimate is None:
        return None
    try:
        spec = kind.model.model_validate(dict(params))
        value = load_function(kind.estimate)(spec, EstimateContext(paths, device))
    except (ModelOpsError, ValueError, OSError) as error:
        # an estimate only orders the queue: without one the job runs when its lane is free
        _log.warning("no estimate for a %s step: %s", kind.name, error)
        return None
    return value if isinstance(value, Estimate) else None
