"""Start-up stays quick: what importing a part may bring in, seen in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "bitsandbytes",
    "duckdb",
    "lancedb",
    "deltalake",
    "pyarrow",
    "pandas",
    "sqlite_utils",
    "huey",
    "vllm",
    "llama_cpp",
    "gguf",
    "boto3",
    "obstore",
    "numpy",
    "fastapi",
    "sentence_transformers",
)
USER_INTERFACE = ("textual", "rich", "typer")


def loaded(code: str, *, env: dict[str, str] | None = None) -> set[str]:
    """Top-level names in ``sys.modules`` after ``code`` ran in a fresh interpreter."""
    script = (
        f"{code}\nimport json, sys\n"
        "print('@@' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("@@")[2]))


def modules(package: str) -> list[str]:
    names = []
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__main__":
            continue
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_the_probe_bites() -> None:
    assert "sqlite3" in loaded("import sqlite3")
    assert "sqlite3" not in loaded("import json")


@pytest.mark.parametrize("package", ["engine", "modelops_tui", "screens"])
def test_nothing_heavy_at_module_scope(package: str) -> None:
    """Every module of the package is imported; no heavy library may come along."""
    code = "import importlib\n" + "\n".join(
        f"importlib.import_module({name!r})" for name in modules(package)
    )
    # the gateway's own modules are FastAPI code, imported by `modelops-tui gateway` alone
    allowed = {"fastapi"} if package == "modelops_tui" else set()
    assert not loaded(code) & set(HEAVY) - allowed


@pytest.mark.parametrize("package", ["engine", "recipes"])
def test_no_user_interface_below(package: str) -> None:
    names = [n for n in modules(package) if package == "engine" or n.count(".") <= 1]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names)
    assert not loaded(code) & set(USER_INTERFACE)


def test_help_is_light() -> None:
    code = (
        "import sys\nsys.argv = ['modelops-tui', '--help']\n"
        "from modelops_tui.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not loaded(code) & {*HEAVY, "textual", "pydantic"}


def test_finding_the_kinds_is_light() -> None:
    code = (
        "from engine.kinds import load_kinds\n"
        "r = load_kinds()\n"
        "assert not r.broken, r.broken\n"
        "assert {'finetune', 'evaluate', 'quantize', 'register'} <= set(r.kinds), r"
    )
    assert not loaded(code) & {*HEAVY, *USER_INTERFACE}


def test_the_face_of_the_engine_is_light() -> None:
    code = "from engine.api import Workbench\nWorkbench('/nonexistent').jobs"
    assert not loaded(code) & {*HEAVY, *USER_INTERFACE, "pydantic"}
