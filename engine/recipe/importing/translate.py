"""The import itself: YAML read, dialect told, translated, then held against our own check."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import BadInput, MissingPart, ModelOpsError, NotFound, RecipeInvalid
from engine.paths import StatePaths
from engine.recipe.importing import axolotl, llama_factory, torchtune, trl
from engine.recipe.importing.translation import Path_, Translation
from engine.recipe.nearest import did_you_mean
from engine.recipe.templates import toml_key, toml_value
from engine.types.recipes import Diagnostic, ImportedRecipe

_MAX_BYTES = 4 << 20
_TITLES = {
    "axolotl": "Axolotl",
    "llama-factory": "LLaMA-Factory",
    "trl": "TRL",
    "torchtune": "torchtune",
    "unsloth": "Unsloth",
}
_DIALECTS: dict[str, Callable[[Translation, Mapping[str, Any]], None]] = {
    "axolotl": axolotl.translate,
    "llama-factory": llama_factory.translate,
    "trl": trl.translate,
    "torchtune": torchtune.translate,
    "unsloth": trl.translate_unsloth,
}
#: Order of the tables in what is written.
_TABLES = ("data", "train", "preference", "resources", "trainer")
#: Mistakes about these keys are for the user to settle: the model or the data is not here yet.
_TO_SETTLE = ("base", "data.train", "data.eval", "preference.reward")


def translate_file(path: Path, paths: StatePaths, dialect: str | None) -> ImportedRecipe:
    """See ``engine.recipe.importing.import_file``."""
    foreign = _read(path)
    chosen = dialect or tell_dialect(foreign)
    if chosen is None:
        raise BadInput(
            f"{path}: this is no recipe of {', '.join(_TITLES.values())}",
            why=f"its keys are {', '.join(list(map(str, foreign))[:12])}",
            hint="--from names the program",
        )
    if chosen not in _DIALECTS:
        raise BadInput(f"there is no dialect {chosen!r}", hint=did_you_mean(chosen, _DIALECTS))
    sheet = Translation(path.absolute().parent)
    _DIALECTS[chosen](sheet, foreign)
    _agree(sheet)
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64] or "imported"
    remaining = _hold_against_check(sheet, name, paths)
    text = _text(sheet, name, path.name, chosen)
    return ImportedRecipe(
        source=str(path),
        dialect=chosen,
        text=text,
        untranslated=tuple(sheet.untranslated),
        notes=tuple(sheet.notes),
        diagnostics=remaining,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingPart("YAML can't be read here", why="PyYAML is not installed") from error

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{path} is too large for a recipe")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read", why=str(error)) from error
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{path} is not valid YAML", why=" ".join(str(error).split())) from error
    if not isinstance(value, dict) or not value:
        kind = "it is empty" if value in (None, {}) else f"it is a {type(value).__name__}"
        hint = "name the configuration file of Axolotl, LLaMA-Factory, TRL, torchtune or Unsloth"
        raise BadInput(f"{path} holds no keys", why=kind, hint=hint)
    return {str(key): item for key, item in value.items()}


def tell_dialect(foreign: Mapping[str, Any]) -> str | None:
    """Which program a configuration is for, by keys that only it has; None when none has any."""
    keys = set(foreign)
    nested = {key for key, _ in torchtune.flat(foreign)}
    inner = keys | {name.rpartition(".")[2] for name in nested}
    scores = {
        "torchtune": 3 * len(nested & torchtune.TELLING),
        "llama-factory": len(keys & llama_factory.TELLING),
        "axolotl": len(keys & axolotl.TELLING),
        "unsloth": len(inner & trl.UNSLOTH_TELLING),
        "trl": len(keys & trl.TELLING),
    }
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0 else None


def _agree(sheet: Translation) -> None:
    """Settle what our grammar does not allow together."""
    held_out = sheet.get("data.eval") is not None or bool(sheet.get("data.eval_fraction"))
    if sheet.get("data.eval") is not None and sheet.get("data.eval_fraction"):
        _drop(sheet, ("data", "eval_fraction"), "a held-out file is named as well")
    for key in (("train", "eval_every"), ("train", "keep")):
        if not held_out and key in sheet.values:
            _drop(sheet, key, "there are no held-out rows: set data.eval or data.eval_fraction")
    if sheet.get("preference.reward") is None and sheet.get("train.method") == "grpo":
        sheet.note("GRPO needs preference.reward: a reward model, or a plugin's name")
    if sheet.get("base") is None:
        sheet.note("the model is not named there: set base")
    if sheet.get("data.train") is None:
        sheet.note("the data is not named there: set data.train")


def _drop(sheet: Translation, key: Path_, reason: str) -> None:
    sheet.values.pop(key)
    foreign, value = sheet.sources.pop(key, ("", None))
    if foreign:
        sheet.leave(foreign, value, reason)
    else:
        sheet.note(f"{'.'.join(key)} is left out: {reason}")


def _hold_against_check(sheet: Translation, name: str, paths: StatePaths) -> tuple[Diagnostic, ...]:
    """Take out what our check refuses, and say why; keep what only the user can settle."""
    from engine.recipe import prepare

    remaining: tuple[Diagnostic, ...] = ()
    # each round takes at least one key out, so it ends
    for _ in range(len(sheet.values) + 1):
        try:
            prepare(_body(sheet, name), (), paths, source_path=sheet.folder / f"{name}.toml")
            return ()
        except RecipeInvalid as error:
            remaining = tuple(d for d in error.diagnostics if isinstance(d, Diagnostic))
        except ModelOpsError as error:
            return (Diagnostic(name, 1, 1, error.what, error.hint),)
        refused = [d for d in remaining if not _for_the_user(d)]
        dropped = False
        for diagnostic in refused:
            key = _key_of(sheet, diagnostic.key)
            if key is not None:
                reason = diagnostic.what + (f" ({diagnostic.advice})" if diagnostic.advice else "")
                _drop(sheet, key, reason)
                dropped = True
        if not dropped:
            break
    return remaining


def _for_the_user(diagnostic: Diagnostic) -> bool:
    return diagnostic.key in _TO_SETTLE


def _key_of(sheet: Translation, dotted: str) -> Path_ | None:
    """Our key that a diagnostic is about (list items and sub-keys belong to their key)."""
    parts = tuple(dotted.split("."))
    for length in range(len(parts), 0, -1):
        if parts[:length] in sheet.values:
            return parts[:length]
    return None


# -- writing ----------------------------------------------------------------------------------


def _body(sheet: Translation, name: str) -> str:
    lines = ["recipe = 1", f"name = {toml_value(name)}", 'kind = "finetune"']
    top = {key[0]: value for key, value in sheet.values.items() if len(key) == 1}
    for key in sorted(top, key=lambda k: (k != "base", k)):
        lines.append(f"{toml_key(key)} = {toml_value(top[key])}")
    for table in _TABLES:
        own = {
            key[1]: value for key, value in sheet.values.items() if key[0] == table and len(key) > 1
        }
        if own:
            lines += ["", f"[{table}]"]
            lines += [f"{toml_key(key)} = {toml_value(_plain(own[key]))}" for key in own]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """YAML's dates and sets have no place in JSON or in our values."""
    if isinstance(value, (bool, int, float, str, list, dict)):
        return value
    return str(value)


def _text(sheet: Translation, name: str, source: str, dialect: str) -> str:
    lines = [f"# Imported from {_one_line(source)} ({_TITLES[dialect]})."]
    lines += [f"# Note: {_one_line(note)}" for note in sheet.notes]
    if sheet.untranslated:
        lines.append("# Not translated:")
        for item in sheet.untranslated:
            value = _one_line(repr(item.value))[:60]
            lines.append(f"#   {_one_line(item.key)} = {value}: {_one_line(item.reason)}")
    return "\n".join(lines) + "\n" + _body(sheet, name)


def _one_line(text: str) -> str:
    """Text that can stand in a TOML comment: no control characters, one line."""
    return "".join(char if char >= " " and char != "\x7f" else " " for char in text)
