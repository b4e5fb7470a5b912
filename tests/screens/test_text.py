"""How values are written."""

from __future__ import annotations

import pytest

from engine.types.jobs import JobState
from screens.ascii_filter import to_ascii
from screens.prose import table, wrapped
from screens.text import ASCII, UNICODE, ago, bar, duration, number, printable, size, state_span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (59.4, "59s"), (61, "1m 01s"), (7322, "2h 02m"), (90000, "1d 1h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_ago_and_size_and_bar() -> None:
    assert (ago(None, 5), ago(0, 59), ago(0, 3700)) == ("-", "59s", "1h")
    assert (size(None), size(999), size(93_100_000)) == ("-", "999 B", "93.1 MB")
    assert bar(0.5, 4, ASCII) == "##.."
    assert bar(7, 3, ASCII) == "###"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (120.0, "120"), (0.0002, "0.0002"), (18.42, "18.42"), (1234, "1,234")],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text


def test_printable_shows_what_could_harm() -> None:
    assert printable("a\x1b[2Jb") == "a\\u001b[2Jb"
    assert printable("\u202egnp") == "\\u202egnp"
    assert printable("plain 你好") == "plain 你好"


@pytest.mark.parametrize("state", list(JobState))
def test_states_are_glyph_and_word(state: JobState) -> None:
    text, _ = state_span(state, UNICODE)
    glyph, word = text.split(" ")
    assert word == state
    assert glyph == UNICODE.state(state)
    assert ASCII.state(state).isascii()


def test_ascii_keeps_the_width() -> None:
    assert to_ascii("●─你") == "*-??"


def test_table_fits_the_width() -> None:
    lines = table(("name", "n"), [("x" * 50, 1), ("y", 22)], width=30)
    assert all(sum(len(t) for t, _ in line) <= 32 for line in lines)


def test_wrapped_keeps_every_character() -> None:
    parts = wrapped([("abc def ", "a"), ("你好ghi", "b")], 4)
    assert "".join(t for line in parts for t, _ in line) == "abc def 你好ghi"


def test_a_wide_report_goes_on_below_with_its_first_column() -> None:
    from screens.prose import folded_table

    columns = ["level", *(f"column {i}" for i in range(9))]
    lines = folded_table(columns, [["Q4_K_M", *range(9)]], 40)
    texts = ["".join(text for text, _ in line).rstrip() for line in lines]
    assert all(len(text) <= 40 for text in texts)
    assert sum("Q4_K_M" in text for text in texts) == 3
    assert all(any(name in text for text in texts) for name in columns)


def test_help_keeps_whole_words_within_its_dialog() -> None:
    from screens.help import help_lines, page

    for width in (50, 72):
        lines = help_lines(None, "jobs", width)
        texts = ["".join(text for text, _ in line) for line in lines]
        assert all(len(text) <= width for text in texts)
        words = " ".join(" ".join(texts).split())
        assert " ".join(page("jobs").split()) in words


async def test_a_scroll_bar_hides_no_letter() -> None:
    from textual.app import App, ComposeResult

    from screens.widgets.text_pane import TextPane

    asked: list[int] = []

    class Pane(App[None]):
        def compose(self) -> ComposeResult:
            yield TextPane(id="pane")

        def on_mount(self) -> None:
            self.query_one(TextPane).show(build)

    def build(width: int) -> list[list[tuple[str, str]]]:
        asked.append(width)
        return [[("x" * width, "")]] * count

    for count, room in ((5, 40), (50, 39)):
        app = Pane()
        async with app.run_test(size=(40, 10)) as pilot:
            await pilot.pause()
            pane = app.query_one(TextPane)
            assert asked[-1] == room
            assert pane.text.splitlines()[0] == "x" * room
            assert pane.show_vertical_scrollbar is (count == 50)
