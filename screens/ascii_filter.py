"""``--ascii``: everything that is drawn, borders and scrollbars too, in ASCII."""

from __future__ import annotations

from dataclasses import astuple

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from screens.text import ASCII, UNICODE

_TABLE = {
    **{ord(a): b for a, b in zip(astuple(UNICODE), astuple(ASCII), strict=True) if len(a) == 1},
    **{ord(c): "-" for c in "─━═╌╍┄┅—–▁▔"},
    **{ord(c): "|" for c in "│┃║▏▕▎▊▌▐"},
    **{ord(c): "+" for c in "┌┐└┘├┤┬┴┼╭╮╯╰╔╗╚╝╠╣╦╩╬┏┓┗┛"},
    **{ord(c): "#" for c in "█▓▒▇▆▅▄▀"},
    ord("→"): ">",
    ord("\u2800"): " ",
    ord("‘"): "'",
    ord("’"): "'",
    ord("“"): '"',
    ord("”"): '"',
    ord("×"): "x",
    ord("•"): "*",
}


def to_ascii(text: str) -> str:
    """``text`` in ASCII, as wide as it was."""
    if text.isascii():
        return text
    out = []
    for char in text:
        if char.isascii():
            out.append(char)
            continue
        width = cell_len(char)
        out.append(_TABLE.get(ord(char), "?")[:width].ljust(width, "?"))
    return "".join(out)


class AsciiFilter(LineFilter):
    """The last thing a line passes before it is written."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.text.isascii() else Segment(to_ascii(segment.text), segment.style)
            for segment in segments
        ]
