"""Six moments as they are drawn at two sizes, beside what was drawn when a person last looked.

The pictures are plain text, so that a difference is read in a diff; after a wanted change:
``MODELOPS_PICTURES=write pytest tests/screens/test_pictures.py``, then look at the diff.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from screens.app import WorkbenchApp
from tests.screens.conftest import make_app, ready, until
from tests.screens.seeded import Seed

PICTURES = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 36))
#: What is pressed, and a text that the last of it brings.
MOMENTS: dict[str, tuple[list[str], str]] = {
    "jobs": ([], "house-style"),
    "why-it-failed": (["slash", *"qlora", "enter"], "try --set train.lr=2e-4"),
    "curve": (["slash", *"house-style", "enter", "tab"], "loss"),
    "cancel": (["slash", *"house-style", "enter", "x"], "Cancel"),
    "help": (["question_mark"], "closes"),
    "empty-registry": (["4"], "The registry is empty."),
}


def drawn(app: WorkbenchApp) -> str:
    """What stands on the screen now, without styles."""
    strips: list[Any] = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


async def still(pilot: Any, picture: Callable[[], str], text: str) -> str:
    """The picture once ``text`` is in it and ten looks in a row saw the same."""
    seen: list[str] = []

    def same() -> bool:
        seen.append(picture())
        return text in seen[-1] and len(set(seen[-10:])) == 1 and len(seen) >= 10

    await until(pilot, same, f"a still picture with {text!r}; the last:\n{picture()}")
    return seen[-1]


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are told in the local zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.usefixtures("utc")
async def test_it_looks_as_it_did(seed: Seed, moment: str, size: tuple[int, int]) -> None:
    keys, text = MOMENTS[moment]
    kept = PICTURES / f"{moment}-{size[0]}x{size[1]}.txt"
    app = make_app(seed)
    async with app.run_test(size=size) as pilot:
        await ready(pilot)
        await pilot.press(*keys)
        if os.environ.get("MODELOPS_PICTURES") == "write":
            picture = await still(pilot, lambda: drawn(app), text)
            kept.write_text(picture, encoding="utf-8")
        wanted = kept.read_text(encoding="utf-8")
        assert text in wanted
        # what is read in threads may be drawn after a moment that looks still
        end = time.monotonic() + 60
        while (picture := drawn(app)) != wanted and time.monotonic() < end:
            await pilot.pause(0.02)
    assert picture == wanted
