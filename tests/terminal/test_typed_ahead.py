"""Keys that arrive in one piece (a slow line, a paste) do what they do one by one."""

from __future__ import annotations

from tests.screens.seeded import Seed
from tests.terminal.session import Session


def test_a_filter_typed_at_once_is_a_filter(seed: Seed) -> None:
    with Session.workbench(seed.paths.root, size=(100, 30)) as session:
        session.wait_for("house-style")
        # 7 alone would show another screen, q close the details
        mark = session.press("/7q-tickets")
        session.wait_for("7q-tickets", mark)
        mark = session.press("\x1b[27u4")
        session.wait_for("Registry", mark)
        session.press("\x11")
        assert session.end() == 0


def test_keys_in_one_piece_go_to_the_dialog_that_the_first_one_opens(seed: Seed) -> None:
    with Session.workbench(seed.paths.root, size=(100, 30)) as session:
        session.wait_for("house-style")
        mark = session.press(":theme")
        session.wait_for("theme", mark)
        session.press("\x1b[27u\x11")
        assert session.end() == 0
