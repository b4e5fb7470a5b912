from __future__ import annotations

import datetime as dt
import json
import time
from decimal import Decimal
from typing import Any

import pytest

from engine.data.plain import plain


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (dt.datetime(2026, 7, 1, 10, 30, tzinfo=dt.UTC), "2026-07-01T12:30:00+02:00"),
        (dt.datetime(2026, 1, 1, 23, 30, tzinfo=dt.UTC), "2026-01-02T00:30:00+01:00"),
        (dt.datetime(2026, 7, 1, 10, 30), "2026-07-01T10:30:00"),
        (dt.date(2026, 7, 1), "2026-07-01"),
        (dt.timedelta(hours=3), "3:00:00"),
        (Decimal("1.5"), 1.5),
        (Decimal("12345678901234567890"), 12345678901234567890),
        (Decimal("0.1000000000000000000001"), "0.1000000000000000000001"),
        (b"\x00\xff", "0x00ff"),
        (float("nan"), "nan"),
        (True, True),
        ({"a": (1, {"b": dt.date(2026, 7, 1)})}, {"a": [1, {"b": "2026-07-01"}]}),
        ("x" * 10_000, "x" * 10_000),
    ],
)
def test_values_are_json_and_whole(value: Any, shown: Any) -> None:
    assert plain(value) == shown
    assert type(plain(value)) is type(shown)
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == shown
