"""The curve keeps its spikes, fits its box and has a twin in ASCII."""

from __future__ import annotations

import math
from collections.abc import Callable

from screens.widgets.loss_chart import loss_chart


def flat(lines: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


def dots(lines: list[str]) -> int:
    return sum(0x2800 < ord(c) < 0x2900 for line in lines for c in line)


def test_it_fits_its_box() -> None:
    points = [(n, 3 * math.exp(-n / 100)) for n in range(1, 400)]
    lines = flat(loss_chart(points, 60, 12))
    assert len(lines) == 12
    assert {len(line) for line in lines} == {60}


def test_a_spike_of_one_step_survives() -> None:
    points = [(float(n), 1.0) for n in range(10_000)]
    points[5_000] = (5_000.0, 9.0)
    lines = flat(loss_chart(points, 60, 12))
    assert dots(lines[:1]) == 1
    assert lines[0].lstrip().startswith("9 ")


def test_nan_is_left_out_and_nothing_says_so() -> None:
    lines = flat(loss_chart([(1, math.nan), (2, math.inf)], 60, 12))
    assert "no loss" in lines[0]


def test_ascii_twin() -> None:
    lines = flat(loss_chart([(1, 3.0), (2, 1.0)], 40, 8, marks=[(2, 1.5)], ascii_only=True))
    assert all(line.isascii() for line in lines)
    assert any("*" in line for line in lines)
    assert any("o" in line.partition("|")[2] for line in lines)


def test_10_000_points_are_quick() -> None:
    import time

    points = [(float(n), math.sin(n / 50)) for n in range(10_000)]

    def least(work: Callable[[], object]) -> float:
        """CPU seconds of the best of ten: what else the machine does is left out."""
        costs = []
        for _ in range(10):
            start = time.process_time()
            work()
            costs.append(time.process_time() - start)
        return min(costs)

    # about what sorting their names costs, whatever the machine; a look at every point for every
    # column would be a hundred times that
    named = least(lambda: sorted(str(y) for _, y in points))
    assert least(lambda: loss_chart(points, 100, 20)) < 10 * named
