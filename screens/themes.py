"""The themes: dark, light and high contrast of our own; the terminal's 16 colours by Textual's."""

from __future__ import annotations

from textual.theme import Theme

from screens.settings import UiSettings, few_colours

THEMES = (
    Theme(
        name="workbench-dark",
        primary="#6ea8fe",
        secondary="#8f9bb3",
        accent="#5cc8c0",
        warning="#e5b567",
        error="#ef7d84",
        success="#85c88a",
        foreground="#d6dae2",
        background="#14171c",
        surface="#1a1e25",
        panel="#242a33",
        dark=True,
    ),
    Theme(
        name="workbench-light",
        primary="#1f5fbf",
        secondary="#5a6578",
        accent="#0b7a75",
        warning="#8a5a00",
        error="#b3261e",
        success="#1f6f3a",
        foreground="#1c2026",
        background="#fbfbf8",
        surface="#f1f1ec",
        panel="#e2e3dd",
        dark=False,
    ),
    Theme(
        name="high-contrast",
        primary="#ffff00",
        secondary="#ffffff",
        accent="#00ffff",
        warning="#ffd700",
        error="#ff8080",
        success="#80ff80",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#202020",
        dark=True,
    ),
)

#: Every theme a user may choose, in the order that ``t`` goes through them.
NAMES = (*(theme.name for theme in THEMES), "ansi-dark", "ansi-light")


def chosen(settings: UiSettings) -> str:
    """The theme to start with."""
    if settings.theme in NAMES:
        return settings.theme
    return "ansi-dark" if few_colours() else THEMES[0].name
