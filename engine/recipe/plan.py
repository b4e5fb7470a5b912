"""The plan: a recipe resolved, checked and frozen, as the engine keeps it in ``plan.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import BadInput
from engine.types.recipes import Diagnostic

#: Version of ``plan.json``. A job submitted by a newer program is refused by an older engine.
PLAN_VERSION = 1


@dataclass(frozen=True)
class PlannedStep:
    """One step, ready to be run once its references are filled in."""

    name: str
    """``train``, or ``train@2`` for the second point of a matrix."""
    kind: str
    params: dict[str, Any]
    """Every key of the kind, defaults included; may hold ``${step.output}`` and ``${env:NAME}``."""
    needs: tuple[str, ...] = ()
    """Steps that must have succeeded first."""
    require: dict[str, str] = field(default_factory=dict)
    """Gates: ``{"check.perplexity": "<= 12"}``."""
    lane: str = "auto"
    point: dict[str, Any] | None = None
    """The matrix values of this copy: ``{"train.lr": 1e-4}``; None outside of a matrix."""

    @property
    def base(self) -> str:
        """The step's name in the recipe, without its point."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Plan:
    """What ``engine.recipe.prepare`` returns and ``jobs.submit`` takes. It never changes."""

    name: str
    kind: str
    """The kind of a recipe with one step, or ``pipeline``."""
    steps: tuple[PlannedStep, ...]
    """In an order in which they can run."""
    pick: str | None
    """``min check.perplexity``: how one point of the matrix is chosen."""
    source_text: str
    source_path: str | None
    sha256: str
    """Of the resolved content: two recipes that do the same have the same hash."""
    code_versions: dict[str, str]
    """Kind -> hash of the code that runs it."""
    data_versions: dict[str, str]
    """Data and model reference -> manifest id, or hash of the files, at submit."""
    sets: tuple[str, ...] = ()
    """The ``--set`` overrides as given."""
    warnings: tuple[Diagnostic, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; ``from_json`` reads it back."""
        return {"plan": PLAN_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            BadInput: it was written by a newer program, or is no plan.
        """
        if value.get("plan", PLAN_VERSION) != PLAN_VERSION:
            raise BadInput(
                f"this plan has version {value.get('plan')}, this program knows {PLAN_VERSION}",
                hint="use the program that submitted the job, or a newer one",
            )
        try:
            steps = tuple(
                PlannedStep(**{**step, "needs": tuple(step["needs"])}) for step in value["steps"]
            )
            rest = {key: value[key] for key in ("name", "kind", "pick", "source_text")}
            return cls(
                **rest,
                steps=steps,
                source_path=value["source_path"],
                sha256=value["sha256"],
                code_versions=dict(value["code_versions"]),
                data_versions=dict(value["data_versions"]),
                sets=tuple(value.get("sets", ())),
                warnings=tuple(Diagnostic(**item) for item in value.get("warnings", ())),
            )
        except (KeyError, TypeError) as error:
            raise BadInput("this is no plan", why=f"{type(error).__name__}: {error}") from error

    def step(self, name: str) -> PlannedStep:
        """The step called ``name``.

        Raises:
            BadInput: the plan has no such step.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise BadInput(f"the plan has no step {name!r}")


def content_hash(
    name: str,
    steps: tuple[PlannedStep, ...],
    pick: str | None,
    code_versions: Mapping[str, str],
    data_versions: Mapping[str, str],
) -> str:
    """sha256 over the canonical JSON of what the plan will do (not over comments or layout)."""
    content = {
        "name": name,
        "steps": [asdict(step) for step in steps],
        "pick": pick,
        "code": dict(code_versions),
        "data": dict(data_versions),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
