"""The keys of a ``quantize`` step."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from engine.recipe.spec import DataRefStr, ModelRefStr, Passthrough, Section, StepSpec
from recipes.gguf import levels as gguf_levels

#: Which backends make which format; the first is the default.
BACKENDS: dict[str, tuple[str, ...]] = {
    "gguf": ("llama-cpp", "llama-cpp-convert"),
    "bnb-nf4": ("bitsandbytes",),
    "bnb-int8": ("bitsandbytes",),
    "gptq": ("gptqmodel", "llmcompressor", "auto-gptq"),
    "awq": ("gptqmodel", "llmcompressor", "autoawq"),
    "w8a8": ("llmcompressor",),
    "fp8": ("llmcompressor",),
    "hqq": ("hqq",),
}


def makers(form: str) -> tuple[str, ...]:
    """The backends that make a format, the default first; those of plugins after ours."""
    from engine.backends.spec import discover

    ours = {name for names in BACKENDS.values() for name in names}
    plugged = [n for n, spec in discover().items() if n not in ours and form in spec.formats]
    return (*BACKENDS.get(form, ()), *plugged)


def _known_format(form: str) -> str:
    if form not in BACKENDS and not makers(form):
        raise ValueError(f"no format {form!r}: there are {', '.join(BACKENDS)}, and plugins' own")
    return form


Format = Annotated[str, AfterValidator(_known_format)]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|[KMGT]B|[KMGT]iB)\s*")
_UNITS = {"B": 1} | {
    f"{letter}{suffix}": base ** (power + 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGT")
}


def parse_size(text: str) -> int:
    """Bytes in ``"4 GB"`` or ``"4.5 GiB"``.

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is no size; write it like "4 GB" or "3.5 GiB"')
    return int(float(match.group(1)) * _UNITS[match.group(2)])


class Calibration(Section):
    """Text that tells which weights matter. Its rows and tokens are recorded with the result."""

    data: DataRefStr | None = None
    """A path, ``name@version`` or a bundled name; by default what the model was trained on, else
    the bundled ``mixed``: prose, code, talk and 23 languages."""
    tokens: Annotated[int, Field(ge=128, le=100_000_000)] = 8192
    """How many tokens are used (fewer where the data ends)."""
    window: Annotated[int, Field(ge=32, le=131_072)] = 512
    """Tokens in one sequence."""


class EvalSection(Section):
    """What the result is measured on."""

    data: DataRefStr = "house/heldout"
    """Held-out rows or text of your own."""
    tokens: Annotated[int, Field(ge=64, le=10_000_000)] = 4096
    neutral: DataRefStr | None = "neutral"
    """A second, unrelated text: shows damage outside of your task."""
    neutral_tokens: Annotated[int, Field(ge=64, le=10_000_000)] = 1024
    window: Annotated[int, Field(ge=32, le=131_072)] = 512
    """Tokens in one sequence; the logits of one are held at a time (window x vocabulary x 4 B)."""
    prompts: Annotated[int, Field(ge=1, le=200)] = 4
    """Prompts of the round-trip proof, taken from ``data``."""
    prompt_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Tokens generated after each of them."""


class QuantizeSpec(StepSpec):
    """Quantization of one model, at one or more levels."""

    kind: Literal["quantize"] = "quantize"
    model: ModelRefStr
    """The model or adapter to quantize (an adapter is merged into its base first)."""
    format: Format = "gguf"
    """``gguf``, ``bnb-nf4``, ``bnb-int8``, ``gptq``, ``awq``, ``w8a8``, ``fp8``, ``hqq``, or what a
    plugin's backend makes."""
    backend: Annotated[str, Field(min_length=1, max_length=40)] = "auto"
    """What does the work (``backends list``); ``auto``: the default of the format."""
    levels: Annotated[list[str], Field(min_length=1, max_length=40)] = Field(
        default_factory=lambda: ["Q4_K_M", "Q8_0"]
    )
    """GGUF types, the most wanted first: it becomes ``model``. Other formats have one level."""
    budget: str | None = None
    """Largest file, such as ``"4 GB"``: levels that do not fit are left out before any work, and
    the one that costs least in quality becomes ``model``."""
    imatrix: bool | Literal["auto"] = "auto"
    """Importance matrix from the calibration data; ``auto``: where a level needs one."""
    overrides: dict[str, str] = Field(default_factory=dict)
    """GGUF: regular expression over tensor names -> type: ``{ "ffn_down" = "Q6_K" }``."""
    intermediate: Literal["auto", "F32", "F16", "BF16"] = "auto"
    """GGUF: type of the unquantized file that levels are made from."""
    bits: Literal[2, 3, 4, 8] = 4
    """GPTQ, AWQ, HQQ: bits per weight."""
    group_size: Annotated[int, Field(ge=-1, le=1024)] | Literal["auto"] = "auto"
    """GPTQ, AWQ, HQQ: weights that share a scale; ``auto``: the largest of 128, 64, 32 possible."""
    target: Literal["any", "vllm", "transformers", "llama.cpp", "ollama"] = "any"
    """Where the result must load; its limits are checked before any work."""
    calibration: Calibration = Calibration()
    eval: EvalSection = EvalSection()
    max_kl: Annotated[float, Field(gt=0, le=100)] | None = None
    """Mean KL divergence from the source that a level may cost; worse ones are not published."""
    options: Passthrough = Field(default_factory=dict)
    """Passed on to the backend's own configuration, by its own names."""

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, value: list[str]) -> list[str]:
        upper = [name.upper() for name in value]
        twice = sorted({name for name in upper if upper.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice")
        return upper

    @field_validator("budget")
    @classmethod
    def _a_size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_size(value)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        from engine.errors import BadInput

        if self.backend != "auto" and self.backend not in makers(self.format):
            known = ", ".join(makers(self.format))
            raise ValueError(f"{self.backend} does not make {self.format}; {known} does")
        if self.format == "gguf":
            try:
                for name in self.levels:
                    gguf_levels.level(name)
                for pattern, name in self.overrides.items():
                    gguf_levels.tensor_type(name)
                    re.compile(pattern)
            except BadInput as error:
                raise ValueError(f"{error.what}; {error.hint or error.why}") from error
            except re.error as error:
                raise ValueError(f"an override is no regular expression: {error}") from error
            if self.imatrix is False:
                needy = [n for n in self.levels if gguf_levels.LEVELS[n].needs_imatrix]
                if needy:
                    raise ValueError(f"{', '.join(needy)} can't be made with imatrix = false")
        elif self.overrides:
            raise ValueError(f"overrides belong to format gguf, not {self.format}")
        return self

    @property
    def chosen_backend(self) -> str:
        """The backend that will do the work."""
        return makers(self.format)[0] if self.backend == "auto" else self.backend

    @property
    def wants_importance(self) -> bool:
        """Whether an importance matrix will be computed."""
        if self.format != "gguf" or self.imatrix is False:
            return False
        found = [gguf_levels.LEVELS[name] for name in self.levels]
        if self.imatrix == "auto":
            return any(level.needs_imatrix for level in found)
        return any(level.gains_imatrix for level in found)
