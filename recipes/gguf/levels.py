"""The quantization types of llama.cpp: names, numbers and what each asks for. No heavy import."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from engine.errors import BadInput


@dataclass(frozen=True)
class Level:
    """A file type of llama.cpp (``llama_ftype``)."""

    name: str
    number: int
    bits: float
    """Typical bits per weight of a model with divisible columns; the report has the real one."""
    needs_imatrix: bool = False
    """llama.cpp refuses to make it without an importance matrix."""
    gains_imatrix: bool = True
    """The importance matrix changes the result."""


def _plain(name: str, number: int, bits: float) -> Level:
    return Level(name, number, bits, gains_imatrix=False)


#: Every type that can be made today, from the most bits to the fewest.
LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        _plain("F32", 0, 32.0),
        _plain("F16", 1, 16.0),
        _plain("BF16", 32, 16.0),
        _plain("Q8_0", 7, 8.5),
        Level("Q6_K", 18, 6.6),
        Level("Q5_1", 9, 6.0),
        Level("Q5_K_M", 17, 5.7),
        Level("Q5_K_S", 16, 5.5),
        Level("Q5_0", 8, 5.5),
        Level("Q4_1", 3, 5.0),
        Level("Q4_K_M", 15, 4.9),
        Level("Q4_K_S", 14, 4.6),
        Level("Q4_0", 2, 4.5),
        Level("IQ4_NL", 25, 4.5),
        Level("IQ4_XS", 30, 4.3),
        _plain("MXFP4_MOE", 38, 4.25),
        Level("Q3_K_L", 13, 4.3),
        Level("Q3_K_M", 12, 3.9),
        Level("Q3_K_S", 11, 3.5),
        Level("IQ3_M", 27, 3.7),
        Level("IQ3_S", 26, 3.4),
        Level("IQ3_XS", 22, 3.3, needs_imatrix=True),
        Level("IQ3_XXS", 23, 3.1, needs_imatrix=True),
        Level("Q2_K", 10, 3.0),
        Level("Q2_K_S", 21, 2.8, needs_imatrix=True),
        Level("IQ2_M", 29, 2.7, needs_imatrix=True),
        Level("IQ2_S", 28, 2.5, needs_imatrix=True),
        Level("IQ2_XS", 20, 2.3, needs_imatrix=True),
        Level("IQ2_XXS", 19, 2.1, needs_imatrix=True),
        Level("TQ2_0", 37, 2.1),
        Level("Q2_0", 41, 2.1),
        Level("IQ1_M", 31, 1.8, needs_imatrix=True),
        Level("TQ1_0", 36, 1.7),
        Level("IQ1_S", 24, 1.6, needs_imatrix=True),
        Level("Q1_0", 40, 1.1),
    )
}

#: What ``budget`` chooses from where no levels are named: a sensible ladder.
LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K")

#: Types of single tensors, for overrides.
TENSOR_TYPES: tuple[str, ...] = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL",
    "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
    "TQ2_0", "TQ1_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0",
)  # fmt: skip

#: Names of levels that lose nothing against a 16- or 32-bit source.
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})


def level(name: str) -> Level:
    """The level called ``name``, in any case.

    Raises:
        BadInput: there is none, with the nearest names.
    """
    found = LEVELS.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), LEVELS, n=3, cutoff=0.4)
        raise BadInput(
            f"there is no GGUF type {name!r}",
            why=f"types: {', '.join(LEVELS)}",
            hint=f"did you mean {', '.join(near)}?" if near else "",
        )
    return found


def tensor_type(name: str) -> str:
    """The canonical name of a single tensor's type.

    Raises:
        BadInput: there is none.
    """
    upper = name.upper()
    if upper not in TENSOR_TYPES:
        near = difflib.get_close_matches(upper, TENSOR_TYPES, n=3, cutoff=0.4)
        raise BadInput(
            f"there is no tensor type {name!r}",
            why=f"types: {', '.join(TENSOR_TYPES)}",
            hint=f"did you mean {', '.join(near)}?" if near else "",
        )
    return upper
