"""What can be said about a ``register`` step before anything runs."""

from __future__ import annotations

from engine.errors import ModelOpsError
from engine.models import resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.register.schema import RegisterSpec


def check(spec: RegisterSpec, context: CheckContext) -> list[Problem]:
    """The model exists, the licence reads, the stage is known."""
    problems = []
    if not context.is_reference(spec.model):
        try:
            resolve_model(spec.model, context.paths)
        except ModelOpsError as error:
            problems.append(Problem(("model",), error.what, error.hint or error.why))
    if spec.license is not None:
        from engine.registry.licenses import normalise

        try:
            normal = normalise(spec.license)
        except ModelOpsError as error:
            problems.append(Problem(("license",), error.what, error.hint))
        else:
            if "LicenseRef-" in normal and "LicenseRef-" not in spec.license:
                problems.append(
                    Problem(
                        ("license",),
                        f"{spec.license!r} is no SPDX licence id",
                        f"it would be recorded as {normal}; see https://spdx.org/licenses",
                        severity="warning",
                    )
                )
    known = _stages(context)
    if spec.stage != "none" and spec.stage not in known:
        problems.append(
            Problem(
                ("stage",),
                f"there is no stage {spec.stage!r}",
                f"stages: {', '.join(known)}; `modelops-tui keys stage` adds one",
            )
        )
    return problems


def _stages(context: CheckContext) -> list[str]:
    if not (context.paths.registry / "registry.json").exists():
        # a check makes no registry: these are the stages a new one begins with
        return ["dev", "staging", "prod"]
    from engine.registry import Registry

    return [rule.name for rule in Registry.open(context.paths).trust.current.stages]
