"""A terminal that comes back: after ctrl+z and ``fg``, and after a ``kill -STOP`` from outside."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from screens.app import WorkbenchApp


def come_back(app: WorkbenchApp) -> None:
    """Let SIGCONT take the terminal again only once what had it before was given up.

    Textual gives the terminal up at SIGTSTP and takes it again at SIGCONT. Who is stopped in any
    other way (``kill -STOP``, a debugger) had nothing given up: a second reader of keys and a
    second writer began beside the first, keys went to either, and the end waited for one that
    nobody ended.
    """
    driver = app._driver
    if driver is None or not hasattr(driver, "_must_signal_resume"):
        return  # no terminal: a test, or a browser

    def continued() -> None:
        if not driver._must_signal_resume:
            driver.suspend_application_mode()
            driver._must_signal_resume = True  # everything is drawn again, as after ctrl+z
        driver.resume_application_mode()
        app.refresh(layout=True)

    # in the loop, not in a signal's handler: the loop itself may just be writing to the terminal
    with suppress(ValueError, RuntimeError):  # not the main thread: whoever runs the loop decides
        asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, continued)
