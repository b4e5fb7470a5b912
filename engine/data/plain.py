"""Values of tables as JSON values that a person can read: nothing cut, times with their zone."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

#: Columns of the store, the events and the registry that hold seconds since the epoch.
TIME_COLUMNS = frozenset({"created", "started", "ended", "began", "last_event_at", "t"})


def plain(value: Any) -> Any:
    """``value`` as JSON: lists and objects stay, moments become local ISO times with their zone.

    A date-time without a zone stays without one; bytes become ``0x...``; a decimal stays a number
    where a float holds it exactly; what JSON has no number for (``nan``, ``inf``) becomes text.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dt.datetime):
        return (value.astimezone() if value.tzinfo else value).isoformat()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"0x{bytes(value).hex()}"
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)
