"""Plan-shaped objects for tests of the store and the engine, without parsing a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    name: str
    kind: str = "probe"
    params: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    require: dict[str, str] = field(default_factory=dict)
    lane: str = "cpu"
    point: dict[str, Any] | None = None


@dataclass(frozen=True)
class FakePlan:
    name: str
    kind: str
    steps: tuple[Step, ...]
    pick: str | None = None
    source_text: str = "recipe = 1\n"
    source_path: str | None = None
    sha256: str = "0" * 64
    code_versions: dict[str, str] = field(default_factory=dict)
    data_versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(*steps: Step, name: str = "probe-job") -> FakePlan:
    chosen = steps or (Step("probe"),)
    return FakePlan(name, chosen[0].kind if len(chosen) == 1 else "pipeline", chosen)
