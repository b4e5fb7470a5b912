"""The keys of an ``lm-eval`` step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.recipe.spec import ModelRefStr, PathStr, StepSpec


def bundled_tasks() -> Path:
    """The folder of the tasks that come with the program."""
    import assets

    return Path(assets.__file__).parent / "data" / "tasks"


class HarnessSpec(StepSpec):
    """Scores one model on tasks of the lm-evaluation-harness, beside another where given."""

    kind: Literal["lm-eval"] = "lm-eval"
    model: ModelRefStr
    """The model to measure."""
    base: ModelRefStr | None = None
    """What it is compared with; by default an adapter's own base. Any model is allowed."""
    tasks: PathStr | None = None
    """A task's YAML file, or a folder of them with their rows; by default the bundled tasks."""
    names: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default_factory=list)
    """Which tasks of the folder; by default all."""
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Use at most this many rows of each task."""
    fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    """Solved examples in front of each question; by default what the task says."""
    chat_template: bool = False
    """Ask through the model's chat template."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Tokens of question and answer; by default what the model was made for."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @property
    def place(self) -> Path:
        """Where the tasks are read."""
        return bundled_tasks() if self.tasks is None else Path(self.tasks).expanduser()
