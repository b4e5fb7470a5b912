"""What a stranger wrote into a card, as the screens draw it: text, and nothing else."""

from __future__ import annotations

import pytest

from screens.prose import paragraph, table

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egpj.exe",
    "a\rb\x08c\x7f",
    "[red]x[/red][@click=app.quit]y[/]",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\u200bzero\u2066isolate",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_cards_and_cells_are_only_text(text: str) -> None:
    for lines in (paragraph(text, 200), table(("what",), [(text,)], 200)):
        drawn = "".join(part for line in lines for part, _ in line)
        assert drawn.replace("\n", "").isprintable()
        if text.isprintable():
            # markup and HTML are not understood, so nothing of them is lost
            assert text in drawn
