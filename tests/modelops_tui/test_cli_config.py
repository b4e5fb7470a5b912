"""Settings: described once, checked when set, comments kept; and the doctor."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from engine import settings
from engine.daemon.settings import EngineSettings
from engine.errors import BadInput
from engine.paths import StatePaths
from modelops_tui.cli.output import Output, printable, width
from modelops_tui.cli.wording import duration, size
from screens.settings import UiSettings
from tests.modelops_tui.front_door import FrontDoor


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


def test_the_descriptions_hold_what_each_part_reads() -> None:
    described = {name: f.default for name, f in settings.EngineTable.model_fields.items()}
    assert described == {f.name: f.default for f in fields(EngineSettings)}
    shown = {name: f.default for name, f in settings.UiTable.model_fields.items()}
    read = {f.name: f.default for f in fields(UiSettings) if f.name not in ("keys", "problems")}
    assert shown == read


def test_every_setting_is_described(paths: StatePaths) -> None:
    views = settings.views(paths)
    assert len(views) >= 10
    assert all(view.description and not view.is_set for view in views)


def test_setting_keeps_comments_and_layout(paths: StatePaths) -> None:
    paths.config.write_text("# mine\n[engine]\ngrace_s = 10.0   # short\n\n[keys]\nquit = 'Q'\n")
    settings.set_setting(paths, "engine.grace_s", "45")
    settings.set_setting(paths, "ui.theme", "high-contrast")
    settings.set_setting(paths, "engine.notify_command", "true")
    settings.set_setting(paths, "registry.gates.prod.after", "staging")
    text = paths.config.read_text()
    assert text.startswith("# mine\n[engine]\ngrace_s = 45   # short\n")
    document = tomllib.loads(text)
    assert document["ui"]["theme"] == "high-contrast"
    assert document["engine"]["notify_command"] == "true", "text stays text"
    assert document["registry"]["gates"]["prod"] == {"after": "staging"}
    assert EngineSettings.load(paths).grace_s == 45.0
    keys = {view.key: view.value for view in settings.views(paths) if view.is_set}
    assert keys["keys.quit"] == "Q"
    assert keys["registry.gates.prod.after"] == "staging"
    assert settings.unset_setting(paths, "engine.grace_s")
    assert not settings.unset_setting(paths, "engine.grace_s")
    assert EngineSettings.load(paths).grace_s == 60.0


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("engine.grase_s", "1", "no setting 'engine.grase_s'"),
        ("grace_s", "1", "no setting"),
        ("engine", "1", "no setting"),
        ("engine.grace_s", "-1", "must be a number from 0 to 86400"),
        ("engine.hub", "maybe", "must be true or false"),
        ("ui.mouse", "sometimes", 'must be one of "auto", "on", "off"'),
        ("engine.cpu_lanes", "1.5", "must be a whole number from 1 to 64"),
        ("registry.gates.prod.metrix", "1", "no setting"),
    ],
)
def test_what_can_not_be_set(paths: StatePaths, key: str, value: str, what: str) -> None:
    with pytest.raises(BadInput, match=what.replace("(", r"\(")):
        settings.set_setting(paths, key, value)
    assert not paths.config.exists(), "nothing half-written"


def test_a_broken_file_is_named(paths: StatePaths) -> None:
    paths.config.write_text("[engine\n")
    with pytest.raises(BadInput, match="can't be read"):
        settings.views(paths)
    paths.config.write_text("[engine]\nhub = 3\n")
    with pytest.raises(BadInput, match=r"engine.hub is 3, it must be true or false"):
        settings.set_setting(paths, "ui.theme", "auto")


def test_the_commands(tmp_path: Path) -> None:
    door = FrontDoor(tmp_path)
    assert door("config", "path").stdout.strip() == str(tmp_path / "state" / "config.toml")
    assert door("config", "get", "engine.grace_s").stdout == "60.0\n"
    assert door("config", "set", "engine.grace_s", "5").returncode == 0
    assert json.loads(door("config", "get", "engine.grace_s", "--json").stdout) == 5
    assert "engine.grace_s = 5\n" in door("config", "show", "grace").stdout
    assert door("config", "unset", "engine.grace_s").returncode == 0
    wrong = door("config", "get", "engine.gracs")
    assert (wrong.returncode, "did you mean `engine.grace_s`?" in wrong.stderr) == (3, True)
    checks = {check["name"]: check for check in json.loads(door("doctor", "--json").stdout)}
    assert checks["torch"]["status"] == "ok"
    assert checks["state directory"]["detail"].startswith(str(tmp_path / "state"))
    assert all(check["hint"] for check in checks.values() if check["status"] == "problem")


def test_names_can_not_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a\\u001b[2Jb\\u202ec"


def test_wide_characters_keep_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("name", "n"), [{"name": "日本", "n": 1}, {"name": "abc", "n": 22.5}])
    assert capsys.readouterr().out == "name     n\n日本     1\nabc   22.5\n"
    assert width("日本") == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (105e6, "105 MB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
