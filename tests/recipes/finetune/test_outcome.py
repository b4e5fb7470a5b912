"""The table at the end of a run: a peak that training did not make is not held against it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from recipes.finetune.outcome import Outcome, result_table


@pytest.mark.parametrize(
    ("in_training", "told"),
    [(True, "1,733 MiB"), (False, "1,733 MiB, reached before training, which stayed below")],
)
def test_where_the_peak_came_from_is_told(in_training: bool, told: str) -> None:
    outcome = Outcome(
        model=None,
        steps=3,
        loss=1.0,
        eval_loss=None,
        tokens_per_s=10.0,
        tokens_seen=30,
        trainable=1,
        parameters=2,
        peak_memory_bytes=1733 << 20,
        estimated_memory_bytes=1543 << 20,
        peak_in_training=in_training,
    )
    session = cast(Any, SimpleNamespace(spec=SimpleNamespace(train=SimpleNamespace(method="lora"))))
    rows = dict(result_table(session, outcome)["rows"])
    assert rows["peak memory"] == told
    assert rows["estimated memory"] == "1,543 MiB"
