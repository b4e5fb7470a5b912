"""Plugins: the template works as it is, and a broken one is named and left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BadInput, Conflict, NotFound
from engine.plugins import POINTS, extensions, point
from modelops_tui.cli.plugin_template import write_template


def install(package: Path, name: str, groups: str) -> None:
    """What pip writes: the entry points beside the module, found over ``PYTHONPATH``."""
    info = package / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(groups)


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[2])])
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MODELOPS_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_template_passes_its_own_tests(tmp_path: Path) -> None:
    made = write_template("word-count", tmp_path / "word-count")
    import tomllib

    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    install(made, "word-count", "\n".join(lines))
    done = run(made, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_a_broken_plugin_is_named_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from engine.serving.launch import ServingBackend\n"
        "OLD = ServingBackend('old', '', 'a:b', 'a:b', api_version=99)\nNOT = 3\n"
    )
    (tmp_path / "worse.py").write_text("raise SystemExit('no')\n")
    groups = (
        "[modelops_tui.serving]\nold = bad:OLD\n"
        "[modelops_tui.metrics]\nnot = bad:NOT\nworse = worse:X\n"
    )
    install(tmp_path, "bad-plugin", groups)
    done = run(tmp_path, "-m", "modelops_tui", "plugin", "list", "--json")
    assert done.returncode == 0
    import json

    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["llama.cpp"]["state"] == "ok"
    assert rows["old"]["reason"] == "made for plugin API 99, this is 1"
    assert rows["not"]["reason"] == "bad:NOT is not a function"
    assert rows["worse"]["reason"] == "SystemExit: no"
    assert rows["worse"]["package"] == "bad-plugin"


def test_names_are_checked(tmp_path: Path) -> None:
    for name in ("../x", "Has Space", "-x", ""):
        with pytest.raises(BadInput):
            write_template(name, tmp_path / "y")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(Conflict):
        write_template("fine", tmp_path / "full")
    with pytest.raises(NotFound, match="serving backend"):
        point("nonsense")
    with pytest.raises(NotFound, match=r"llama\.cpp"):
        extensions("serving backend").get("none")
    assert len({where.group for where in POINTS}) == len(POINTS)
