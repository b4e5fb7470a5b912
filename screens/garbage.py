"""What keeps the memory of a program that runs for days flat: when garbage is collected, and what
Textual would hold for ever.
"""

from __future__ import annotations

import gc

from textual._styles_cache import StylesCache

#: Seconds from a screen's first frame until its garbage is collected (see ``modelops_tui.launch``).
COLLECT_AFTER_S = 2.0
#: From malloc.h.
_M_ARENA_MAX = -8


def collect_garbage() -> None:
    """From now on; what the screens are made of stays out of every later collection.

    The collection after the freeze tells the collector how little is left: it looks at old objects
    only when those that wait are a quarter of what it found last.
    """
    forget_closed_widgets()
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.enable()


def forget_closed_widgets() -> None:
    """Empty Textual's cache of border sizes (8.2.8).

    It is one for all widgets and holds the last 1,024 of them, with every line that they drew: 40
    MB of closed dialogs.
    """
    StylesCache.get_inner_outer.cache_clear()


def one_heap() -> None:
    """Let all threads share one heap of the C library (call it before the first thread).

    glibc gives each thread that waits for another's lock a heap of its own, and none shrinks: 8 MB
    here, where threads only read now and then. Elsewhere (musl) there is nothing to set.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
