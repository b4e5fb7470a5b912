"""``recipe import`` on the examples that other programs ship: crashes, refusals, lost keys.

``RECIPES=FOLDER python -m benchmarks imports``; FOLDER holds one unpacked source distribution per
program (``pip download --no-deps --no-binary NAME NAME``, then ``tar xf``). A key is lost when the
import is the same, note for note, with and without it; every key is tried in the first file of its
program that has it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.recipe.importing import import_file

#: Written out although their program does so anyway: nothing changes without them.
_DEFAULTS = {("stage", "sft"), ("pref_loss", "sigmoid"), ("quantization_method", "bnb")}
_NO_RECIPE = "this is no recipe of"


def outcome(path: Path, paths: StatePaths, dialect: str | None) -> tuple[str, Any]:
    """``(dialect, everything the import says)``; ``("no recipe" | "refused" | "crash", why)``."""
    try:
        found = import_file(path, paths, dialect=dialect)
    except ModelOpsError as error:
        return ("no recipe" if _NO_RECIPE in error.what + error.why else "refused"), str(error)
    except Exception as error:  # noqa: BLE001  a crash of any kind is what is looked for
        return "crash", repr(error)
    told = [(item.key, repr(item.value), item.reason) for item in found.untranslated]
    return found.dialect, (found.text.partition("\n")[2], told, found.notes, found.diagnostics)


def lost_keys(
    file: Path, values: dict[str, Any], dialect: str, paths: StatePaths, tried: set[str]
) -> list[str]:
    """The file's keys, not tried before, whose absence changes nothing at all in the import."""
    fresh = [key for key, value in values.items() if key not in tried and value is not None]
    tried.update(fresh)
    if not fresh:
        return []
    # beside the others: what a recipe names by a relative path is looked for there
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=file.parent) as other:
        place = Path(other.name)

        def said(some: dict[str, Any]) -> Any:
            place.write_text(json.dumps(some, default=str))
            return outcome(place, paths, dialect)

        whole = said(values)
        return [k for k in fresh if said({n: v for n, v in values.items() if n != k}) == whole]


def main() -> int:
    if "RECIPES" not in os.environ:
        print("skipped: RECIPES names no folder of others' recipes")
        return 0
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    tried: dict[str, set[str]] = defaultdict(set)
    bad: list[str] = []
    root = Path(os.environ["RECIPES"])
    with tempfile.TemporaryDirectory() as home:
        paths = StatePaths(Path(home)).ensure()
        for file in sorted(f for f in root.rglob("*.y*ml") if f.is_file()):
            program = file.relative_to(root).parts[0]
            try:
                values = yaml.safe_load(file.read_text())
            except (yaml.YAMLError, UnicodeDecodeError):
                values = None
            if not isinstance(values, dict):
                counts[program]["no recipe"] += 1
                continue
            found, why = outcome(file, paths, None)
            counts[program][found] += 1
            if found in ("refused", "crash"):
                bad.append(f"{found}: {file.relative_to(root)}: {why}")
            elif found != "no recipe":
                named = {str(key): value for key, value in values.items()}
                for key in lost_keys(file, named, found, paths, tried[program]):
                    if (key, str(values[key])) in _DEFAULTS:
                        continue
                    bad.append(f"lost: {file.relative_to(root)}: {key} = {values[key]!r}")
    print("| program | imported | no recipes | refused | crashes | keys tried |")
    print("|---|---|---|---|---|---|")
    for program, count in sorted(counts.items()):
        none, refused, crashed = (count.pop(k, 0) for k in ("no recipe", "refused", "crash"))
        ours = ", ".join(f"{n} {dialect}" for dialect, n in count.items()) or "0"
        print(f"| {program} | {ours} | {none} | {refused} | {crashed} | {len(tried[program])} |")
    print("\n" + "\n".join(f"- {line}" for line in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
