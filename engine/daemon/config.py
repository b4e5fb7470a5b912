"""``config.toml``: read with the engine's defaults, changed key by key with its comments kept."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, fields
from typing import Any

from engine.daemon.settings import EngineSettings
from engine.errors import BadInput
from engine.paths import StatePaths
from engine.supervise.durable import write_durably


def load_config(paths: StatePaths) -> dict[str, Any]:
    """The file's tables; ``engine`` holds every setting, defaults included.

    Raises:
        BadInput: the file can't be read or a value is not valid.
    """
    data: dict[str, Any] = {}
    if paths.config.exists():
        try:
            data = tomllib.loads(paths.config.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{paths.config} can't be read", why=str(error)) from error
    return {**data, "engine": asdict(EngineSettings.load(paths))}


def set_value(paths: StatePaths, key: str, value: Any) -> None:
    """Set ``table.name`` to a value (text is parsed as TOML where it can be).

    Raises:
        BadInput: the key is not ``table.name``, or an engine setting is unknown or of another type.
    """
    table, _, name = key.partition(".")
    if not table or not name or "." in name:
        raise BadInput(f"{key!r} is not a setting", hint="write it as table.name: engine.grace_s")
    value = parsed(value) if isinstance(value, str) else value
    _check(table, name, value)
    # 20 ms: only when a setting is written
    import tomlkit

    text = paths.config.read_text(encoding="utf-8") if paths.config.exists() else ""
    document = tomlkit.parse(text)
    if table not in document:
        document[table] = tomlkit.table()
    section: Any = document[table]
    section[name] = value
    changed = tomlkit.dumps(document)
    paths.ensure()
    write_durably(paths.config, changed.encode())


def parsed(text: str) -> Any:
    """``text`` as the TOML value it spells, else as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check(table: str, name: str, value: Any) -> None:
    if table != "engine":
        return
    known = {field.name: field.default for field in fields(EngineSettings)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise BadInput(
            f"there is no setting engine.{name}",
            why=f"known: {', '.join(known)}",
            hint=f"did you mean engine.{close[0]}?" if close else "",
        )
    EngineSettings.from_table({name: value})
