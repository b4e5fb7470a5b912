"""The keys of an ``export`` step."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from engine.errors import BadInput
from engine.plugins import names
from engine.recipe.spec import DataRefStr, ModelRefStr, StepSpec
from recipes.gguf.levels import LEVELS, level

#: The targets we write; plugins bring more.
TARGETS = ("hf", "gguf", "gguf-adapter", "ollama", "vllm")


def _known_target(name: str) -> str:
    known = (*TARGETS, *names("exporter"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no target {name!r}: there are {', '.join(known)}{advice}")
    return name


Target = Annotated[str, AfterValidator(_known_target)]


class ExportSpec(StepSpec):
    """An export of one model for one program."""

    kind: Literal["export"] = "export"
    model: ModelRefStr
    """The model, adapter (merged first) or quantized artifact to write."""
    target: Target = "hf"
    """``hf``: a Hugging Face directory; ``gguf``: one file; ``gguf-adapter``: a LoRA adapter
    alone, for llama.cpp over any GGUF of its base; ``ollama``: a GGUF with a Modelfile;
    ``vllm``: a directory that vLLM loads; or what a plugin writes (``plugin list``)."""
    to: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A new folder that gets the files; without it the export is in the registry only."""
    level: str = "Q8_0"
    """GGUF targets: the type of a model that is not quantized yet."""
    data: DataRefStr = "house/heldout"
    """Where the prompts of the proof come from."""
    prompts: Annotated[int, Field(ge=1, le=200)] = 4
    prompt_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Tokens generated after each prompt."""

    @field_validator("level")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return level(value).name
        except BadInput as error:
            raise ValueError(f"{error.what}; {error.hint or error.why}") from error

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.target in ("gguf", "ollama") and LEVELS[self.level].needs_imatrix:
            raise ValueError(
                f"{self.level} needs an importance matrix: quantize first, then export the result"
            )
        return self
