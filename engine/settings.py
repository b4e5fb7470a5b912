"""Every setting of ``config.toml``: what it means, what may stand there, its default.

Each part of the program reads its own table; here they are described, checked when set, and
written with the file's comments kept. Few on purpose: what a recipe can say belongs in the recipe.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from engine.errors import BadInput
from engine.paths import StatePaths
from engine.recipe.nearest import did_you_mean, nearest
from engine.recipe.schema_view import SchemaView
from engine.recipe.spec import Section
from engine.supervise.durable import write_durably


class UiTable(Section):
    """The full-screen workbench."""

    theme: str = "auto"
    """Colours; ``auto`` follows the terminal. `modelops-tui` lists the themes in its palette."""
    mouse: Literal["auto", "on", "off"] = "auto"
    """``auto``: off over SSH, so that the terminal's own selection works."""
    ascii: bool = False
    """Draw with ASCII only."""
    fps: Annotated[int, Field(ge=0, le=240)] = 0
    """Repaints a second at most; 0: 15 over SSH, else the toolkit's own."""
    start_engine: bool = True
    """Start the engine with the screens when none runs."""


class EngineTable(Section):
    """The local engine. It reads its settings when it starts."""

    grace_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """Seconds between TERM and KILL when a job is cancelled or paused: one checkpoint must fit."""
    hub: bool = False
    """Let jobs reach the model hub; without it they run offline."""
    log_cap_mib: Annotated[float, Field(ge=1, le=1_048_576)] = 256.0
    """A job's log keeps its first MiB and its newest part; the middle is given back above this."""
    notify_command: str = ""
    """Run when a job ends, with MODELOPS_JOB, _NAME, _STATE and _REASON in its environment."""
    notify_webhook: str = ""
    """An http(s) address that gets a JSON POST when a job ends."""
    max_interruptions: Annotated[int, Field(ge=0, le=10_000)] = 10
    """A step whose worker was killed so often without a new checkpoint fails."""
    hot_spare: bool = False
    """Keep one worker started in advance (about 40 MB) so that the next job begins sooner."""
    hot_spare_imports: str = ""
    """Modules the spare imports in advance, separated by commas."""
    cpu_lanes: Annotated[int, Field(ge=1, le=64)] = 1
    """How many jobs may run on the CPU at once."""


class GateTable(Section):
    """Conditions of one stage."""

    metrics: dict[str, str] = Field(default_factory=dict)
    """Metric -> bound: ``{ perplexity = "<= 12" }``."""
    licenses: list[str] = Field(default_factory=list)
    """The only licences that may pass; empty: any."""
    require_license: bool = False
    """Refuse artifacts without a licence."""
    after: str | None = None
    """The version must hold, or have held, this stage first."""


class RegistryTable(Section):
    """The signed registry."""

    gates: dict[str, GateTable] = Field(default_factory=dict)
    """Conditions by stage: ``[registry.gates.prod]``."""


class Settings(Section):
    """The whole of ``config.toml``."""

    ui: UiTable = UiTable()
    engine: EngineTable = EngineTable()
    registry: RegistryTable = RegistryTable()
    keys: dict[str, str] = Field(default_factory=dict)
    """Action -> keys: ``cancel-job = "X"``. docs/keys.md lists the actions."""


@dataclass(frozen=True)
class SettingView:
    """One setting as ``config show`` and the System screen show it."""

    key: str
    value: Any
    default: Any
    expected: str
    description: str
    is_set: bool
    """True when the file says it; False for the default."""


def views(paths: StatePaths) -> tuple[SettingView, ...]:
    """Every setting with its value; free tables (keys, gates) only where something is set.

    Raises:
        BadInput: the file is not TOML, or a value is not allowed.
    """
    document = read(paths)
    found: list[SettingView] = []
    for field in _view().fields():
        value = _at(document, field.path)
        if field.default == {} or field.dotted in ("keys", "registry.gates"):
            for key, inner in _leaves(value if isinstance(value, Mapping) else {}, field.path):
                found.append(SettingView(key, inner, None, field.expected, field.description, True))
            continue
        known = value is not None
        shown = value if known else field.default
        found.append(
            SettingView(
                field.dotted, shown, field.default, field.expected, field.description, known
            )
        )
    return tuple(found)


def read(paths: StatePaths) -> dict[str, Any]:
    """The file's tables, checked; empty without a file.

    Raises:
        BadInput: it is not TOML, or a setting is unknown or not allowed.
    """
    try:
        document = tomllib.loads(paths.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{paths.config} can't be read", why=str(error)) from error
    _check(document, str(paths.config), "`modelops-tui config unset {key}` restores the default")
    return document


def set_setting(paths: StatePaths, key: str, value: Any) -> None:
    """Write one setting; comments and layout of the file stay.

    Args:
        paths: the state directory.
        key: dotted: ``engine.grace_s``.
        value: a value, or text that spells a TOML value (a bare word is text).

    Raises:
        BadInput: there is no such setting, or the value is not allowed.
    """
    parts = _parts(key)
    document = read(paths)
    changed = _parsed(value) if isinstance(value, str) else value
    expected = _view().types(_view().node(parts) or {})
    if isinstance(value, str) and not isinstance(changed, str) and expected == {"string"}:
        changed = value
    place: dict[str, Any] = document
    for part in parts[:-1]:
        place = place.setdefault(part, {})
    place[parts[-1]] = changed
    _check(document, f"{key} = {value!r}")
    # 20 ms: only when a setting is written
    import tomlkit

    text = paths.config.read_text(encoding="utf-8") if paths.config.exists() else ""
    written: Any = tomlkit.parse(text)
    table = written
    for part in parts[:-1]:
        if part not in table:
            table[part] = tomlkit.table()
        table = table[part]
    table[parts[-1]] = changed
    paths.ensure()
    write_durably(paths.config, tomlkit.dumps(written).encode())


def unset_setting(paths: StatePaths, key: str) -> bool:
    """Take a setting out of the file, so that its default holds again.

    Returns:
        False when it was not set.

    Raises:
        BadInput: there is no such setting.
    """
    parts = _parts(key)
    import tomlkit

    if not paths.config.exists():
        return False
    written: Any = tomlkit.parse(paths.config.read_text(encoding="utf-8"))
    table = written
    for part in parts[:-1]:
        table = table.get(part)
        if table is None:
            return False
    if parts[-1] not in table:
        return False
    del table[parts[-1]]
    write_durably(paths.config, tomlkit.dumps(written).encode())
    return True


_cached: list[SchemaView] = []


def _view() -> SchemaView:
    if not _cached:
        _cached.append(SchemaView(Settings.model_json_schema()))
    return _cached[0]


def _parts(key: str) -> tuple[str, ...]:
    parts = tuple(part for part in key.split(".") if part)
    if len(parts) < 2 or _view().node(parts) is None:
        known = [field.dotted for field in _view().fields()]
        close = nearest(key, known)
        raise BadInput(
            f"there is no setting {key!r}",
            hint=f"did you mean `{close}`?" if close else f"known: {', '.join(known)}",
        )
    return parts


def _check(document: Mapping[str, Any], where: str, hint: str = "") -> None:
    try:
        Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(part for part in first["loc"] if isinstance(part, (str, int)))
        key = ".".join(str(part) for part in path)
        if first["type"] == "extra_forbidden":
            known = _view().keys(path[:-1])
            raise BadInput(
                f"{where}: there is no setting {key}", hint=did_you_mean(str(path[-1]), known)
            ) from error
        node = _view().node(path)
        expected = _view().expected(node) if node is not None else str(first["msg"])
        raise BadInput(
            f"{where}: {key} is {first['input']!r}, it must be {expected}",
            hint=hint.format(key=key),
        ) from error


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _leaves(table: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            found += _leaves(value, (*path, key))
        else:
            found.append((".".join((*path, key)), value))
    return found
