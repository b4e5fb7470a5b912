"""Plugins: the template works as it is, and a broken one is named and left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BadInput, Conflict, NotFound
from engine.plugins import POINTS, extensions, point
from modelops_tui.cli.plugin_template import PARTS, write_template


def install(package: Path, name: str, groups: str) -> None:
    """What pip writes: the entry points beside the module, found over ``PYTHONPATH``."""
    info = package / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(groups)


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[3])])
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MODELOPS_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )


def build(package: Path, target: Path) -> None:
    """A wheel of the package, installed into a folder, as pip does it."""
    quiet = ("-m", "pip", "--disable-pip-version-check", "-q")
    wheels = target.with_name("wheels")
    for words in (
        ("wheel", "--no-build-isolation", "--no-deps", "-w", str(wheels), str(package)),
        ("install", "--no-deps", "--no-index", "-f", str(wheels), "-t", str(target), package.name),
    ):
        done = subprocess.run(
            [sys.executable, *quiet, *words], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr


def check_template(tmp_path: Path, parts: tuple[str, ...], tests: int) -> Path:
    """Write, build, install, and run the package's own tests against what was installed."""
    made = write_template("word-count", tmp_path / "word-count", parts)
    installed = tmp_path / "installed"
    build(made, installed)
    # the tests alone: what they import is the installed package, not its source
    shutil.copytree(made / "tests", tmp_path / "apart" / "tests")
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "../apart/tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
    return installed


@pytest.mark.timeout(1200)
def test_the_template_with_everything_works_as_it_is(tmp_path: Path) -> None:
    installed = check_template(tmp_path, tuple(PARTS), 10)
    done = run(installed, "-m", "modelops_tui", "plugin", "list", "--json")
    rows = [row for row in json.loads(done.stdout) if row["package"] == "word-count"]
    assert {row["state"] for row in rows} == {"ok"}
    assert {row["point"] for row in rows} == {where.name for where in POINTS}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", list(PARTS))
def test_each_part_of_the_template_works_alone(tmp_path: Path, part: str) -> None:
    check_template(tmp_path, (part,), 2 if part in ("kind", "backend") else 1)


def test_a_broken_plugin_is_named_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from engine.serving.launch import ServingBackend\n"
        "OLD = ServingBackend('old', '', 'a:b', 'a:b', api_version=99)\nNOT = 3\n"
        "def BLIND(path): return ''\n"
    )
    broken = tmp_path / "bad_backends" / "on_it"
    broken.mkdir(parents=True)
    for folder in (broken, broken.parent):
        (folder / "__init__.py").touch()
    (broken / "backend.toml").write_text("name = 'it'\n")
    (tmp_path / "worse.py").write_text("raise SystemExit('no')\n")
    groups = (
        "[modelops_tui.serving]\nold = bad:OLD\n"
        "[modelops_tui.metrics]\nnot = bad:NOT\nworse = worse:X\n"
        "[modelops_tui.readers]\nblind = bad:BLIND\n"
        "[modelops_tui.backends]\ngone = no.such.package\nempty = bad_backends\n"
    )
    install(tmp_path, "bad-plugin", groups)
    done = run(tmp_path, "-m", "modelops_tui", "plugin", "list", "--json")
    assert done.returncode == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["llama.cpp"]["state"] == "ok"
    assert rows["old"]["reason"] == "made for plugin API 99, this is 1"
    assert rows["not"]["reason"] == "bad:NOT is not a function"
    assert rows["worse"]["reason"] == "SystemExit: no"
    assert rows["worse"]["package"] == "bad-plugin"
    assert rows["blind"]["reason"].startswith("bad:BLIND has no suffixes")
    assert "No module named 'no'" in rows["gone"]["reason"]
    assert "does not describe a backend" in rows["on_it"]["reason"]
    # neither hides what is sound
    assert rows["gptqmodel"]["point"] == "backend"
    listed = run(tmp_path, "-m", "modelops_tui", "backends", "list", "--json")
    assert "gptqmodel" in listed.stdout


def test_what_a_plugin_gives_is_checked(tmp_path: Path) -> None:
    """A metric, a reward or a reader that misbehaves is named; an unknown name is an error."""
    (tmp_path / "bad.py").write_text(
        "def nan(answers, references): return float('nan')\n"
        "def few(prompts, answers): return [1.0]\n"
        "def read(path): raise KeyError('x')\n"
        "read.suffixes = ('.odd',)\n"
    )
    (tmp_path / "a.odd").write_text("x")
    install(
        tmp_path,
        "bad-plugin",
        "[modelops_tui.metrics]\nnan = bad:nan\n[modelops_tui.rewards]\nfew = bad:few\n"
        "[modelops_tui.readers]\nodd = bad:read\n",
    )
    code = (
        "from pathlib import Path\n"
        "from recipes.evaluate.schema import EvaluateSpec\n"
        "from recipes.evaluate.scores import plugin_score\n"
        "from recipes.export.schema import ExportSpec\n"
        "from recipes.finetune.reward_model import find_reward\n"
        "from recipes.rag.readers import read_document\n"
        "for call in (lambda: plugin_score('nan', ['a'], ['a']),\n"
        "             lambda: find_reward('few', None)(['a', 'b'], ['a', 'b']),\n"
        "             lambda: read_document(Path('a.odd')),\n"
        "             lambda: EvaluateSpec(kind='evaluate', model='m', metrics=['nam']),\n"
        "             lambda: ExportSpec(kind='export', model='m', target='hff')):\n"
        "    try: call()\n"
        "    except Exception as e: print(' '.join(str(e).split()))\n"
    )
    done = run(tmp_path, "-c", code)
    said = done.stdout.splitlines()
    assert len(said) == 5, done.stdout + done.stderr
    assert said[0] == "the metric 'nan' returned nan: a finite number was due"
    assert said[1].startswith("the reward 'few' is wrong: 2 finite numbers were due")
    assert said[2] == "the reader odd: KeyError: 'x'"
    assert "did you mean nan?" in said[3]
    assert "did you mean hf?" in said[4]


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


def test_the_command_names_what_it_made_and_what_is_wrong(tmp_path: Path) -> None:
    new = ("-m", "modelops_tui", "plugin", "new")
    place = str(tmp_path / "made")
    done = run(tmp_path, *new, "my-words", "--folder", place, "--with", "metric", "--json")
    assert json.loads(done.stdout) == {"folder": place, "parts": ["metric"]}
    assert (tmp_path / "made" / "pyproject.toml").is_file()
    again = run(tmp_path, *new, "my-words", "--folder", place)
    assert (again.returncode, "choose another --folder" in again.stderr) == (4, True)
    wrong = run(tmp_path, *new, "my-words", "--with", "nonsense")
    assert (wrong.returncode, "parts: kind, metric" in wrong.stderr) == (2, True)
