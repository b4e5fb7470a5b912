"""How much memory this process has used at most, and how it asks for it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress

#: glibc's ``mallopt`` parameters (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = (1 << 31) - 1
_GROWTH_BYTES = 64 << 20
_PRIMITIVES = 256
#: Steps between two times that freed pages are given back: asking for them again costs as much as
#: a tenth of a step.
GIVE_BACK_EVERY = 16


def keep_freed_memory() -> bool:
    """Let the C allocator keep what is freed instead of giving it back; whether it agreed.

    A training step frees and asks again for the same tensors. By default glibc unmaps those above
    32 MiB and trims the rest, and every step pays for some 200,000 page faults: 4 to 7 % of the
    CPU time of a 135M model. Memory goes back to the system when the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        # another C library (musl) has no such call, and other habits
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_MMAP_THRESHOLD, 1 << 30),
            (_TRIM_THRESHOLD, _KEPT_BYTES),
            (_TOP_PAD, _GROWTH_BYTES),
        )
    )


def keep_few_primitives() -> None:
    """Let oneDNN keep 256 products instead of 1,024.

    Each padded length has products of its own, about fifty a step of LoRA, and what they hold grows
    with every new length: 4 MiB a step of a 135M model in bf16. Read at the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRIMITIVES))


def give_back(device: str) -> None:
    """Give freed pages back to the system: batches of other lengths leave holes between them."""
    if device != "cpu" or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def settle_memory(device: str) -> None:
    """Before training on a CPU: give back what loading has left, then keep what training frees."""
    if device != "cpu":
        return
    gc.collect()
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes(device: str) -> int:
    """Peak resident memory on the CPU; peak reserved memory on a GPU, in bytes."""
    if device != "cpu":
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            return int(torch.cuda.max_memory_reserved())
    # ru_maxrss is in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
