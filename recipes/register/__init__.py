"""Registering: a step's model gets a name of its own, a version, and a stage."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.register.schema import RegisterSpec

KIND = Kind(
    name="register",
    summary="verify a model, publish it signed under your own name, and promote it to a stage",
    model=RegisterSpec,
    run="recipes.register.run:run",
    outputs={"model": "artifact", "version": "text"},
    lane="cpu",
    check="recipes.register.check:check",
    estimate=None,
    resumable=False,
    code=("engine.models",),
)
