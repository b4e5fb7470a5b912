"""The scatter chart: every point and name is there, nothing leaves its width."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.api.charts import scatter

LADDER = [("Q8_0", 145, 0.003, True), ("Q4_K_M", 105, 0.05, True), ("Q4_0", 106, 0.2, False)]


def of(points: list[tuple[str, float, float, bool]]) -> dict[str, object]:
    return {
        "x": "MB",
        "y": "KL",
        "points": [{"name": n, "x": x, "y": y, "front": f} for n, x, y, f in points],
    }


def test_names_places_and_the_front() -> None:
    lines = scatter(of(LADDER), 60)
    assert "logarithmic" in lines[0]
    assert sum(line.count("●") for line in lines[1:-1]) == 2
    assert sum(line.count("○") for line in lines[1:-1]) == 1
    above = next(i for i, line in enumerate(lines) if "Q4_0" in line)
    below = next(i for i, line in enumerate(lines) if "Q8_0" in line)
    assert above < below
    assert lines[below].index("Q8_0") > lines[above].index("Q4_0")
    assert "105" in lines[-2]
    assert "145" in lines[-2]


def test_ascii_only() -> None:
    assert "\n".join(scatter(of(LADDER), 60, ascii_only=True)).isascii()


def test_nothing_to_compare() -> None:
    assert scatter(of(LADDER[:1]), 60) == []
    assert scatter(of([*LADDER[:1], ("bad", 1, float("nan"), False)]), 60) == []
    assert scatter({"points": [{"level": "Q8_0", "size_bytes": 1}] * 3}, 60) == []


@given(
    st.lists(
        st.tuples(
            st.text("abcQ_0", min_size=1, max_size=30),
            st.floats(0, 1e6),
            st.floats(0, 1e3),
            st.booleans(),
        ),
        min_size=2,
        max_size=12,
    ),
    st.integers(40, 130),
    st.integers(2, 20),
)
def test_it_stays_within_its_width(
    points: list[tuple[str, float, float, bool]], width: int, height: int
) -> None:
    lines = scatter(of(points), width, height)
    assert len(lines) == min(height, 3 * len(points) + 1) + 4
    assert all(len(line) <= width for line in lines)
