"""The pydantic base of every kind's keys, and the small vocabulary its fields share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    """A table of a recipe: unknown keys are errors, nothing changes after validation.

    Types are strict, as TOML's are: ``"4"`` is text and never a number; a whole number may stand
    for a decimal one. Lists are ``list[...]`` in the model (TOML and JSON know no tuples).
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Resources(Section):
    """What a step may use. ``auto`` lets the engine decide from the estimate and the device."""

    memory: str = "auto"
    """``auto``, or an upper bound such as ``"12 GiB"``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``gpu`` or a GPU's UUID."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads; 0: every core this job may use."""


class StepSpec(Section):
    """Base of the keys of one kind. ``kind`` discriminates; the fields belong to the kind."""

    resources: Resources = Resources()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of every random generator of the step."""


def _writable(text: str) -> str:
    """``text`` when a file system could hold it: the longest part of a path has 255 bytes."""
    if "\0" in text or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("no file or reference can have such a name (255 bytes between slashes)")
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{text.split('/', maxsplit=1)[0]} is nobody's home folder") from error
    return text


_Name = AfterValidator(_writable)

#: A model: registry ref ``name@stage`` or ``name@version``, packaged short name, local directory,
#: GGUF file, hub id, or a reference to an earlier step's output such as ``${train.model}``.
ModelRefStr = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    _Name,
    WithJsonSchema({"type": "string", "x-ref": "model"}),
]

#: Data: a path, ``name@version``, or the short name of a bundled dataset (``house/train``).
DataRefStr = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    _Name,
    WithJsonSchema({"type": "string", "x-ref": "data"}),
]

#: A file or folder of the recipe's own: made absolute against the recipe's folder.
PathStr = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    _Name,
    WithJsonSchema({"type": "string", "x-ref": "path"}),
]

Passthrough = dict[str, Any]
