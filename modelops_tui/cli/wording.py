"""Times, sizes and numbers as a person reads them."""

from __future__ import annotations

from datetime import datetime


def duration(seconds: float | None) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(number: float | None) -> str:
    """``105 MB``, ``1.2 GB``: decimal units, as disks and file managers count; ``-`` for None."""
    if number is None:
        return "-"
    value = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def moment(seconds: float | None) -> str:
    """Local date and time to the minute; ``-`` for None."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def number(value: float) -> str:
    """A count or measure without needless digits: ``60``, ``2.14``, ``1,204``."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"
