"""The line of keys at the bottom, from the active bindings; one Static, never widgets a key."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from screens.actions import ACTIONS, shown

_ORDER = {action.id: n for n, action in enumerate(ACTIONS)}
_HELP = "? help"


class KeyHints(Static):
    """Shows what fits, the focused thing's keys first, help always at the right end."""

    DEFAULT_CSS = """
    KeyHints { height: 1; width: 1fr; dock: bottom; background: $panel; color: $foreground; }
    KeyHints:ansi { background: ansi_default; }
    """

    def __init__(self) -> None:
        super().__init__("")
        self._shown: tuple[object, ...] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda screen: self.refresh_hints())
        self.call_after_refresh(self.refresh_hints)

    def on_resize(self) -> None:
        self.refresh_hints()

    def refresh_hints(self) -> None:
        """Read the active bindings; draw only where they differ from what is shown."""
        if not self.is_attached or self.app.screen is not self.screen:
            return
        seen: dict[str, tuple[str, str]] = {}
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            key_id = binding.id or binding.action
            if binding.show and enabled and binding.id != "help" and key_id not in seen:
                seen[key_id] = (shown(binding.key), binding.description)
        hints = tuple(seen[k] for k in sorted(seen, key=lambda k: _rank(k)))
        state = (hints, self.size.width)
        if state != self._shown:
            self._shown = state
            self.update(self._content(hints))

    def _content(self, hints: tuple[tuple[str, str], ...]) -> Content:
        room = self.size.width - cell_len(_HELP) - 2
        parts: list[tuple[str, str] | str] = [" "]
        used = 1
        for key, label in hints:
            length = cell_len(key) + cell_len(label) + 3
            if used + length > room:
                break
            parts += [(key, "$primary bold"), f" {label}  "]
            used += length
        parts.append(" " * max(0, room - used + 1))
        parts += [("?", "$primary bold"), " help"]
        return Content.assemble(*parts)


def _rank(action_id: str) -> tuple[bool, int]:
    """The keys of the place first, those of everywhere last."""
    place = _ORDER.get(action_id, -1)
    everywhere = place >= 0 and ACTIONS[place].where == "everywhere"
    return (everywhere, place)
