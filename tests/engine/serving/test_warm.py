"""A process started in advance: it becomes the server, or leaves nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.serving import warm

PROGRAM = """\
import json, os, sys, time
from pathlib import Path
import ahead
said = {"argv": sys.argv[1:], "port": os.environ["PORT"], "stdin": sys.stdin.read(),
        "pid": os.getpid(), "policy": os.environ["OMP_WAIT_POLICY"]}
Path(sys.argv[1]).write_text(json.dumps(said))
time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is run as ``python -m shop``, and a module it needs."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "ahead.py").write_text(
        "import os\nfrom pathlib import Path\n"
        f"Path({str(tmp_path / 'loaded')!r}).write_text(str(os.getpid()))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(warm.PROGRAMS, "shop", ("shop", "ahead", "a_module_that_is_not_there"))
    yield tmp_path
    warm.discard()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def argv(folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "shop", str(folder / "said"), "--flag")


def test_it_imports_first_and_runs_nothing_until_it_is_told(program: Path) -> None:
    import json

    warm.begin({"params": {"backend": "shop"}})
    until((program / "loaded").exists)
    begun = warm.take("shop")
    assert begun is not None
    # what it is going to be has not begun
    assert not (program / "said").exists()
    server = begun.become(argv(program), {"PORT": "4711"})
    assert server is begun.process
    try:
        until(lambda: (program / "said").exists() and bool((program / "said").read_text()))
        said = json.loads((program / "said").read_text())
    finally:
        begun.kill()
    assert said == {
        "argv": [str(program / "said"), "--flag"],
        "port": "4711",
        "stdin": "",
        "pid": int((program / "loaded").read_text()),
        "policy": "passive",
    }


def test_another_program_or_a_dead_process_is_not_used(program: Path) -> None:
    other = warm.take("shop")
    assert other is not None
    assert other.become(("/bin/true",), {}) is None
    assert other.process.returncode is not None
    dead = warm.take("shop")
    assert dead is not None
    dead.process.kill()
    dead.process.wait()
    assert dead.become(argv(program), {"PORT": "1"}) is None


def test_it_leaves_with_whoever_started_it_and_is_killed_when_nobody_took_it(program: Path) -> None:
    left = warm.take("shop")
    assert left is not None
    assert left.process.stdin is not None
    left.process.stdin.close()
    assert left.process.wait(timeout=60) == 0
    assert not (program / "said").exists()
    warm.begin({"params": {"backend": "shop"}})
    process = warm._begun[0].process
    warm.discard()
    assert process.returncode is not None
    assert warm._begun == []


def test_a_backend_without_such_a_program_starts_cold() -> None:
    warm.begin({"params": {"backend": "vllm"}})
    assert warm._begun == []
    assert warm.take("vllm") is None


def test_the_llama_cpp_server_is_what_it_is_told_to_become() -> None:
    """Its modules exist under these names in the installed version."""
    import importlib.util

    for name in warm.PROGRAMS["llama.cpp"]:
        assert importlib.util.find_spec(name) is not None, name
