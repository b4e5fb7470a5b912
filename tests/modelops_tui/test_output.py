"""The one writer of stdout, seen from a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelops_tui.cli.output import Output


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    explain = f"{sys.executable} -m modelops_tui recipe explain quickstart"
    command = f"{explain} | (read -r line; echo $line); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "MODELOPS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("quickstart")


FULL = "error: stdout can't be written\n  No space left on device\n"


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("recipe list >&-", 0, ""),
        ("recipe list --json >&-", 0, ""),
        ("recipe list <&- >&- 2>&-", 0, ""),
        (
            "recipe list > /dev/full",
            1,
            "error: stdout can't be written\n  No space left on device\n",
        ),
    ],
)
def test_a_closed_or_full_stdout(tmp_path: Path, command: str, status: int, told: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m modelops_tui {command}"],
        env={**os.environ, "MODELOPS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", told)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Output:
    out = Output()
    monkeypatch.setattr(out, "columns", lambda: 40)
    return out


WIDE = [{"name": f"row-{i}", "text": "x" * 50, "first": 1.5, "second": "y" * 20} for i in range(2)]


def test_a_narrow_terminal_cuts_texts_but_not_names(
    narrow: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow.table(["name", "text", "first"], WIDE)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("row-0  xxxx")
    assert "…" in lines[1]
    assert lines[1].endswith("1.5")


def test_a_report_goes_on_below(narrow: Output, capsys: pytest.CaptureFixture[str]) -> None:
    narrow.table(["name", "first", "second", "text"], WIDE, fold=True)
    text = capsys.readouterr().out
    assert "…" not in text
    assert "x" * 50 in text
    blocks = text.split("\n\n")
    assert len(blocks) == 2
    assert all("row-0" in block and "row-1" in block for block in blocks)


def test_a_pipe_gets_everything(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["name", "text", "first", "second"], WIDE)
    assert "x" * 50 in capsys.readouterr().out
