"""The keys of a ``register`` step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.recipe.spec import ModelRefStr, StepSpec

Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$", max_length=128)
]
Tag = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9_+-])?$", max_length=64)
]


class RegisterSpec(StepSpec):
    """Publishes a model under a name people use, and puts it into a stage."""

    kind: Literal["register"] = "register"
    model: ModelRefStr
    """What to register: usually an earlier step's model."""
    name: Name
    """What to call it."""
    stage: Literal["none"] | Tag = "dev"
    """The stage it enters, through the stage's gates; ``none`` registers without one."""
    version: Literal["auto"] | Tag = "auto"
    """``auto`` counts on; anything else must be new."""
    tags: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    """Words to find it by."""
    license: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """SPDX expression; by default what the model's own lineage comes to."""
    card: Annotated[str, Field(max_length=65536)] = ""
    """Markdown shown with the model; by default the source's card."""
