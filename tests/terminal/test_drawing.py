"""What the terminal is given: colours it has, sizes it may take, bytes that can't hurt it."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.screens.seeded import NOW, Seed
from tests.terminal.session import PATIENCE_S, Session

READY = "house-style"
_TRUECOLOR = re.compile(rb"\x1b\[[0-9;]*[34]8;2;")


@pytest.mark.parametrize(
    "env",
    [{"NO_COLOR": "1"}, {"TERM": "xterm"}, {"TERM": "linux"}],
    ids=["no-color", "16", "linux"],
)
def test_few_colours_stay_few(root: Path, env: dict[str, str]) -> None:
    with Session.workbench(root, env=env) as session:
        session.wait_for(READY)
        session.press("\x11")
        assert session.end() == 0
        assert not _TRUECOLOR.search(bytes(session.output))


def test_ascii_draws_ascii(root: Path) -> None:
    with Session.workbench(root, "--ascii", size=(100, 30)) as session:
        session.wait_for(READY)
        mark = session.press("\t")
        session.wait_for("loss", mark)
        session.press("\x11")
        assert session.end() == 0
        drawn = session.text.split("jobs go on")[0]
        assert {c for c in drawn if ord(c) > 126} == set()


def test_sizes_from_one_cell_up(root: Path) -> None:
    with Session.workbench(root) as session:
        session.wait_for(READY)
        for size in [(1, 1), (10, 3), (200, 50), (59, 15), (2, 80), (300, 2)] * 4:
            session.resize(*size)
            session.signal_resize()
            time.sleep(0.02)
        mark = len(session.output)
        session.resize(40, 10)
        session.signal_resize()
        session.wait_for("smaller than 60x16", mark)
        mark = len(session.output)
        session.resize(100, 30)
        session.signal_resize()
        session.wait_for(READY, mark)
        session.press("\x11")
        assert session.end() == 0


def test_hostile_names_and_garbage_logs(seed: Seed) -> None:
    job = seed.job("evil\x1b]0;owned\x07[bold]x[/]\u202egnp.exe")
    seed.conn.execute("UPDATE jobs SET created=? WHERE id=?", (NOW, job))
    seed.log(job, b"\x1b[2J\x1b]0;owned\x07\xff\xfe\x00bytes\n" + b"A" * (1 << 20) + b"\n\x80end\n")
    with Session.workbench(seed.paths.root, size=(120, 36)) as session:
        session.wait_for("[bold]x[/]")
        mark = session.press("\t")
        session.wait_for("Chart", mark)
        mark = session.press("\t")
        session.wait_for("end", mark)
        session.press("\x11")
        assert session.end() == 0
        assert b"]0;owned" not in session.output.replace(b"\\u001b]0;owned", b"")
        assert "\u202e" not in session.text


def test_a_job_deleted_under_it(seed: Seed) -> None:
    with Session.workbench(seed.paths.root, size=(120, 36)) as session:
        session.wait_for(READY)
        session.press("jj")
        mark = session.press("\t\t")
        session.wait_for("step 120", mark)
        mark = len(session.output)
        shutil.rmtree(seed.paths.run_dir(seed.ids["house-style"]))
        session.wait_for("the log is gone", mark)
        mark = len(session.output)
        seed.conn.execute("DELETE FROM jobs WHERE id=?", (seed.ids["house-style"],))
        session.wait_for("Jobs (6", mark)
        session.press("\x11")
        assert session.end() == 0


def descriptors(pid: int) -> tuple[int, list[str]]:
    """How many of them are stores, and what the others lead to."""
    stores, others = 0, []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            leads_to = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if ".db" in leads_to:
            stores += 1
        else:
            others.append(leads_to)
    return stores, sorted(others)


def test_no_descriptor_leaks(root: Path) -> None:
    with Session.workbench(root, size=(100, 30)) as session:
        session.wait_for(READY)
        pid = session.process.pid

        def walk() -> int:
            """Over all panes and some screens; the most descriptors within a second after it."""
            session.press("jjj" + 8 * "\t" + "kkk")
            for key, title in (
                ("8", "System"),
                ("2", "Recipes"),
                ("4", "Registry"),
                ("8", "System"),
            ):
                mark = session.press(key)
                session.wait_for(title, mark)
            mark = session.press("1")
            session.wait_for("Jobs (", mark)
            most = 0
            for _ in range(10):
                most = max(most, len(descriptors(pid)[1]))
                time.sleep(0.1)
            return most

        walk()
        before = walk()
        for _ in range(3):
            walk()
        end = time.monotonic() + PATIENCE_S
        while True:  # a thread may still read what was passed by
            stores, others = descriptors(pid)
            # each thread that reads has a connection of its own (a store, its log and its index);
            # how many threads there are depends on how busy the machine is
            readers = len(os.listdir(f"/proc/{pid}/task"))
            if len(others) <= before + 2 and stores <= 6 * readers:
                break
            assert time.monotonic() < end, (before, stores, readers, others)
            time.sleep(0.1)
        session.press("\x11")
        assert session.end() == 0
