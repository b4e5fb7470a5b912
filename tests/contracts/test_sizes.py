"""Rooms stay liveable: caps on the length of files and functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "recipes", "screens", "modelops_tui", "assets", "tests", "benchmarks")
FILE_CAP = 500
FUNCTION_CAP = 80
APP_CAP = 250
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "manager.py", "common.py"}


def sources() -> list[Path]:
    return sorted(f for package in PACKAGES for f in (ROOT / package).rglob("*.py"))


def long_functions(source: str) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_CAP:
                found.append((node.name, length))
    return found


def test_the_caps_bite() -> None:
    body = "\n".join("    x = 1" for _ in range(FUNCTION_CAP))
    assert long_functions(f"def f():\n{body}\n") == [("f", FUNCTION_CAP + 1)]


def test_files_are_short() -> None:
    lengths = {f: len(f.read_text().splitlines()) for f in sources()}
    too_long = {str(f.relative_to(ROOT)): n for f, n in lengths.items() if n > FILE_CAP}
    assert not too_long, too_long


def test_functions_are_short() -> None:
    too_long = {
        f"{f.relative_to(ROOT)}:{name}": length
        for f in sources()
        for name, length in long_functions(f.read_text())
    }
    assert not too_long, too_long


def test_the_app_is_short() -> None:
    app = ROOT / "screens" / "app.py"
    assert len(app.read_text().splitlines()) <= APP_CAP


def test_no_file_is_named_after_nothing() -> None:
    assert [str(f) for f in sources() if f.name in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("package", ["engine", "recipes", "screens", "modelops_tui"])
def test_every_module_says_what_it_is(package: str) -> None:
    silent = [
        str(f.relative_to(ROOT))
        for f in (ROOT / package).rglob("*.py")
        if f.read_text().strip() and not ast.get_docstring(ast.parse(f.read_text()))
    ]
    assert not silent
