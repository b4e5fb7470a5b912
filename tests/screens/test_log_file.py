"""A log seen by byte offsets, whatever is in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from screens.log_file import HOLE, LINE_CAP, LogFile


def opened(path: Path, fold: int = LINE_CAP) -> LogFile:
    log = LogFile(path, fold)
    while log.scan():
        pass
    return log


def test_lines_as_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\r\n\nfour")
    log = opened(path)
    assert [log.line(n) for n in range(len(log))] == ["one", "two", "", "four"]


def test_grows_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    log = opened(path)
    assert log.line(1) == "tw"
    with open(path, "ab") as file:
        file.write(b"o\nthree\n")
    assert log.changed()
    log.scan()
    assert [log.line(n) for n in range(len(log))] == ["one", "two", "three"]
    assert not log.changed()


def test_what_a_carriage_return_overwrote_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"10%\r50%\r100%\ndone\n")
    assert opened(path).line(0) == "100%"


def test_escapes_and_bad_utf8_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\x1b[31mred\x1b[0m \x1b]0;t\x07x\xff\x07\n")
    assert opened(path).line(0) == "red x\ufffd\\u0007"


def test_long_lines_are_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = "é" * (LINE_CAP + 7)
    path.write_text(text + "\nnext\n", encoding="utf-8")
    log = opened(path)
    lines = [log.line(n) for n in range(len(log))]
    assert "".join(lines[:-1]) == text
    assert lines[-1] == "next"


@pytest.mark.parametrize("megabytes", [1, 3])
def test_a_hole_is_one_line(tmp_path: Path, megabytes: int) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.write(b"first\n")
        file.seek(megabytes << 20)
        file.write(b"tail of a line\nlast\n")
    log = opened(path)
    lines = [log.line(n) for n in range(len(log))]
    assert lines[0] == "first"
    assert lines[-1] == "last"
    assert HOLE in lines
    assert len(lines) < 12


def test_truncated_and_replaced_files_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\nc\n")
    log = opened(path)
    path.write_bytes(b"x\n")
    log.scan()
    assert [log.line(n) for n in range(len(log))] == ["x"]
    os.unlink(path)
    assert log.changed()
    assert log.gone
    path.write_bytes(b"new\nfile\n")
    assert log.changed()
    log.scan()
    assert log.line(1) == "file"


def test_find_goes_around(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"alpha\nbeta\nALPHA\n")
    log = opened(path)
    assert log.find("alpha", 0, 1) == 2
    assert log.find("alpha", 2, 1) == 0
    assert log.find("alpha", 0, -1) == 2
    assert log.find("gamma", 0, 1) == -1


def test_memory_is_the_index_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes((b"x" * 79 + b"\n") * 60_000)
    import tracemalloc

    tracemalloc.start()
    log = opened(path)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(log) == 60_000
    assert used < 2_500_000
