"""Task files: read without running anyone's code, with rows from their own folder only.

The harness itself would import Python named in a task's YAML (``!function``), render its templates
without a sandbox and fetch rows and metrics from the hub. A job does none of that: such a task is
refused with the key that asks for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound

#: Loaders of ``datasets`` that read local files.
LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
#: Keys that name code.
_CODE_KEYS = ("class", "custom_dataset", "unsafe_code")
_ROWS = "dataset_kwargs.data_files"


def read_tasks(place: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The task configurations of a file or folder, with absolute paths of their rows.

    Args:
        place: a YAML file, or a folder of them (files whose name begins with ``_`` are only
            included by others).
        names: tasks to take (empty: all), in this order.

    Raises:
        NotFound: no such file, task or rows.
        BadInput: a file is no task, names code, or takes its rows from elsewhere.
    """
    if place.is_dir():
        files = sorted(f for f in place.rglob("*.y*ml") if f.suffix in (".yaml", ".yml"))
        files = [file for file in files if not file.name.startswith("_")]
    elif place.is_file():
        files = [place]
    else:
        raise NotFound(
            f"there is no task file or folder at {str(place)!r}",
            hint="give a task's YAML file, or a folder of them",
        )
    root = place if place.is_dir() else place.parent
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        task = _task(file, root)
        if task["task"] in found:
            raise BadInput(f"two files of {str(place)!r} define the task {task['task']!r}")
        found[task["task"]] = task
    if not found:
        raise NotFound(
            f"there are no tasks in {str(place)!r}", why="it has no file that ends in .yaml"
        )
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            raise NotFound(
                f"there is no task {name!r} in {str(place)!r}",
                why=f"it has {', '.join(found)}",
                hint=f"did you mean {near[0]}?" if near else "",
            )
    return [found[name] for name in names or found]


def _task(file: Path, root: Path) -> dict[str, Any]:
    values = _with_includes(file, root)
    name = values.get("task")
    if not isinstance(name, str) or not name:
        what = "a group of tasks" if "group" in values or isinstance(name, list) else "no task"
        raise BadInput(
            f"{file.name} is {what}",
            why="every file must define one task, by the key task",
            hint="groups are not needed: every task of the folder is run",
        )
    for key in _CODE_KEYS:
        if values.get(key):
            raise BadInput(
                f"{file.name}: the key {key} names code",
                why="code that comes with a task is never run",
                hint="write the task with templates (doc_to_text) and the built-in metrics",
            )
    loader = values.get("dataset_path")
    if loader not in LOADERS:
        raise BadInput(
            f"{file.name}: dataset_path = {loader!r} is not a local file",
            why="a job never downloads",
            hint=f"use one of {', '.join(sorted(LOADERS))} and name the files in {_ROWS}",
        )
    options = values.get("dataset_kwargs")
    files = options.get("data_files") if isinstance(options, dict) else None
    if not files:
        raise BadInput(f"{file.name} names no rows", hint=f"name the files in {_ROWS}")
    # a task reads what stands beside it: nothing else of its options is needed
    values["dataset_kwargs"] = {"data_files": _absolute(files, file, root)}
    return values


def _with_includes(file: Path, root: Path, depth: int = 0) -> dict[str, Any]:
    import yaml

    if depth > 5:
        raise BadInput(f"{file.name}: includes go in a circle")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        text = str(error)
        function = "!function" in text
        raise BadInput(
            f"the task file {file.name} can't be read",
            why="it names Python code (!function), which is never run" if function else text,
            hint="write the task with templates and the built-in metrics" if function else "",
        ) from error
    if not isinstance(values, dict):
        raise BadInput(f"{file.name} is no task", why="it is not a mapping of keys to values")
    included = values.pop("include", None)
    for other in [included] if isinstance(included, str) else included or []:
        base = _inside(other, file, root)
        values = {**_with_includes(base, root, depth + 1), **values}
    return values


def _absolute(files: Any, file: Path, root: Path) -> Any:
    if isinstance(files, str):
        return str(_inside(files, file, root))
    if isinstance(files, list):
        return [_absolute(one, file, root) for one in files]
    if isinstance(files, dict):
        return {str(key): _absolute(one, file, root) for key, one in files.items()}
    raise BadInput(f"{file.name}: {_ROWS} must be paths")


def _inside(name: Any, file: Path, root: Path) -> Path:
    """The file ``name`` beside ``file``; nothing outside ``root``, and no address."""
    if not isinstance(name, str) or "://" in name:
        raise BadInput(f"{file.name} names {name!r}, which is not a file", why="jobs stay offline")
    path = (file.parent / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise BadInput(
            f"{file.name} reaches outside its folder: {name!r}",
            hint="copy the rows beside the task",
        )
    if not path.is_file():
        raise NotFound(f"{file.name} names {name!r}, which is not there")
    return path
