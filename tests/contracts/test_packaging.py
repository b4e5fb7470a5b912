"""What a wheel and a stranger need: data files declared, versions agreed, pins kept."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import modelops_tui

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = dict(
    line.split("==", 1)
    for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
    if "==" in line
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s<>=!~;\[@]", r, maxsplit=1)[0]) for r in requirements}


def test_torch_is_pinned_everywhere() -> None:
    assert "torch==2.13.0" in PROJECT["project"]["dependencies"]
    assert CONSTRAINTS["torch"] == "2.13.0"


def test_the_lock_covers_every_dependency() -> None:
    locked = {normal(name) for name in CONSTRAINTS}
    wanted = requirement_names(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted |= requirement_names(extra)
    assert not wanted - locked - {"modelops-tui"}


def test_the_lock_names_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert " @ " not in text


def test_every_data_file_is_shipped() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    suffixes = {p[1:] for p in patterns if p.startswith("*.")}
    names = {p for p in patterns if not p.startswith("*.")}
    missing = [
        str(f.relative_to(ROOT))
        for package in ("engine", "recipes", "screens", "modelops_tui", "assets")
        for f in (ROOT / package).rglob("*")
        if f.is_file()
        and "__pycache__" not in f.parts
        and f.suffix not in suffixes | {".py", ".pyc"}
        and f.name not in names
    ]
    assert not missing, f"add a pattern to package-data for: {missing}"


def test_every_folder_with_code_is_a_package() -> None:
    """setuptools ships packages only: a folder without __init__.py would be left out."""
    for package in ("engine", "recipes", "screens", "modelops_tui"):
        for folder in (ROOT / package).rglob("*"):
            if folder.is_dir() and any(folder.glob("*.py")):
                assert (folder / "__init__.py").exists(), folder


def test_the_changelog_knows_this_version() -> None:
    assert f"[{modelops_tui.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_machine_path_in_tracked_files() -> None:
    hostile = re.compile(r"(?<![\w.*/~-])/(?:work|farm|root|opt/wheels)/[A-Za-z.]")
    found = []
    pages = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
    for place in (*pages, "docs", "scripts", "engine", "recipes", "screens", "benchmarks"):
        base = ROOT / place
        for file in [base] if base.is_file() else base.rglob("*"):
            if file.suffix in {".py", ".md", ".sh", ".toml"} and hostile.search(file.read_text()):
                found.append(str(file))
    assert not found
