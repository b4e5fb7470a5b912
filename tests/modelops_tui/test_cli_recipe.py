"""``modelops-tui recipe`` and the front door, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from modelops_tui.cli.reference import commands
from tests.faults.harness import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
BAD = 'kind = "finetune"\nbase = "smollm2"\ndata = { train = "rows.jsonl" }\n[train]\nlr = 7\n'


def cli(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelops_tui", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "MODELOPS_HOME": str(cwd / "state"), **env},
        timeout=PATIENCE,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) * 1 + "\n" + json.dumps(row) + "\n")
    (tmp_path / "bad.toml").write_text(BAD)
    (tmp_path / "good.toml").write_text(BAD.replace("7", "1e-4"))
    return tmp_path


def test_check_good_and_bad(folder: Path) -> None:
    good = cli("recipe", "check", "good.toml", cwd=folder)
    assert (good.returncode, good.stdout) == (0, "")
    assert good.stderr == "good.toml: valid\n"
    bad = cli("recipe", "check", "good.toml", "bad.toml", cwd=folder)
    assert bad.returncode == 2
    assert "bad.toml:5:6: `train.lr` is 7" in bad.stderr
    assert "\n    |      ^\n" in bad.stderr


def test_check_as_json(folder: Path) -> None:
    result = cli("recipe", "check", "bad.toml", "--json", cwd=folder)
    assert result.returncode == 2
    (checked,) = json.loads(result.stdout)
    assert checked["valid"] is False
    (diagnostic,) = checked["diagnostics"]
    assert (diagnostic["line"], diagnostic["column"], diagnostic["key"]) == (5, 6, "train.lr")
    fixed = cli("recipe", "check", "bad.toml", "--set", "lr=1e-3", "--json", cwd=folder)
    assert json.loads(fixed.stdout)[0]["valid"] is True


def test_an_invalid_recipe_as_a_json_error(folder: Path) -> None:
    result = cli("run", "bad.toml", "--json", cwd=folder)
    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "recipe_invalid"
    assert error["diagnostics"][0]["line"] == 5
    assert not (folder / "state" / "jobs.db").exists(), "nothing was submitted"


def test_explain(folder: Path) -> None:
    recipe = cli("recipe", "explain", "good.toml", cwd=folder)
    assert "1. finetune (finetune):" in recipe.stdout
    assert "train.lr = 0.0001" in recipe.stdout
    kind = cli("recipe", "explain", "finetune", "train.lr", cwd=folder)
    assert "train.lr: a number above 0 and at most 1" in kind.stdout
    missing = cli("recipe", "explain", "finetun", cwd=folder)
    assert missing.returncode == 3


def test_new_list_show_cp_schema(folder: Path) -> None:
    assert cli("recipe", "new", "finetune", "mine.toml", cwd=folder).returncode == 0
    assert cli("recipe", "check", "mine.toml", cwd=folder).returncode == 0
    merge = cli("recipe", "new", "merge", "merge.toml", cwd=folder)
    assert "to fill in, line 14: name a registered adapter" in merge.stderr
    again = cli("recipe", "new", "finetune", "mine.toml", cwd=folder)
    assert again.returncode == 4
    assert "--force" in again.stderr
    assert cli("recipe", "new", "finetun", cwd=folder).returncode == 3
    listed = json.loads(cli("recipe", "list", "--json", cwd=folder).stdout)
    assert "quickstart" in {entry["name"] for entry in listed}
    shown = cli("recipe", "show", "quickstart", cwd=folder).stdout
    assert tomllib.loads(shown)["kind"] == "pipeline"
    assert cli("recipe", "cp", "quickstart", "own.toml", cwd=folder).returncode == 0
    assert (folder / "own.toml").read_text() == shown
    assert cli("recipe", "schema", "s.json", cwd=folder).returncode == 0
    assert json.loads((folder / "s.json").read_text())["$schema"].endswith("draft-07/schema#")


def test_import(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        "base_model: smollm2\ndatasets:\n  - {path: rows.jsonl, type: chat_template}\n"
        "sequence_len: 64\nadapter: lora\nlearning_rate: 3e-4\nwandb_project: x\n"
    )
    result = cli("recipe", "import", "a.yaml", "-o", "a.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "wandb_project = 'x'" in result.stderr
    assert tomllib.loads((folder / "a.toml").read_text())["train"]["lr"] == 3e-4
    assert cli("recipe", "check", "a.toml", cwd=folder).returncode == 0


HELP = """
import sys
from modelops_tui.cli.main import main
sys.argv = ["modelops-tui", *{args!r}]
try:
    main()
except SystemExit as leave:
    assert not leave.code
print("LOADED", *sorted(sys.modules))
"""


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["jobs", "--help"], ["recipe", "--help"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP.format(args=args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "Usage: modelops-tui" in result.stdout
    loaded = set(result.stdout.splitlines()[-1].split()[1:])
    heavy = {"textual", "torch", "huey", "duckdb", "sqlite_utils", "rich.console", "tomlkit"}
    # Typer itself reads the options before a subcommand with pydantic; our schemas stay out
    heavy |= {"pydantic"} if args == ["--help"] else {"engine.recipe.spec", "engine.settings"}
    assert heavy & loaded == set()


def test_unknown_commands_get_a_suggestion(tmp_path: Path) -> None:
    for args, name in ((["recpie"], "recipe"), (["jobs", "lst"], "list"), (["dokter"], "doctor")):
        result = cli(*args, cwd=tmp_path)
        assert result.returncode == 2
        assert f"Did you mean '{name}'?" in result.stderr
    lost = cli("zzzzzz", cwd=tmp_path)
    assert "See `modelops-tui --help`" in lost.stderr


def test_every_command_has_help_and_stands_in_the_docs() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    seen = 0
    for path, command in commands():
        assert command.help, path
        if len(path) > 1 or not hasattr(command, "commands"):
            assert f"`modelops-tui {' '.join(path)}" in page, (
                f"{' '.join(path)}: run `python -m modelops_tui.cli.reference docs/cli.md`"
            )
            for parameter in command.params:
                if parameter.name not in ("help", "install_completion", "show_completion"):
                    assert getattr(parameter, "help", None) is not None or path, path
        seen += 1
    assert seen > 30


def test_a_state_directory_that_cannot_be_made_is_no_traceback(folder: Path) -> None:
    done = cli("jobs", "list", cwd=folder, MODELOPS_HOME=str(folder / "good.toml"))
    assert done.returncode == 1
    assert "good.toml can't be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_override_of_a_step_that_is_not_there(folder: Path) -> None:
    done = cli("recipe", "check", "quickstart", "--set", "steps.trian.base=x", cwd=folder)
    assert done.returncode == 2
    assert "there is no step `trian`" in done.stderr
    assert "`train`" in done.stderr


def test_a_default_is_told_in_words(folder: Path) -> None:
    done = cli("recipe", "explain", "finetune", "train.lr", cwd=folder)
    assert "(default not set)" in done.stdout
    assert "None" not in done.stdout
