"""Mistakes of a ``finetune`` step found before it is accepted: quick, and without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.data.formats import read_examples
from engine.data.rows import read_rows
from engine.data.source import DataLocation, resolve_data
from engine.errors import ModelOpsError
from engine.models import ModelLocation, resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.finetune.schema import ADAPTER_METHODS, FinetuneData, FinetuneSpec
from recipes.finetune.together import check_distributed
from recipes.finetune.trainer_table import problem_with
from recipes.finetune.unused import unused
from recipes.finetune.weights import has_chat_template, linear_names

#: Rows looked at: enough to see a wrong format, few enough for a check in a blink.
_LOOKED_AT = 200
#: Which row shapes each method learns from.
SHAPES: dict[str, frozenset[str]] = {
    "pretrain": frozenset({"text", "completion", "chat"}),
    "dpo": frozenset({"preference"}),
    "orpo": frozenset({"preference"}),
    "reward": frozenset({"preference"}),
    "kto": frozenset({"kto"}),
    "grpo": frozenset({"prompt", "chat", "completion", "preference", "kto"}),
}
_SUPERVISED = frozenset({"chat", "completion", "text"})


def shapes_for(method: str) -> frozenset[str]:
    """Row shapes that ``method`` can learn from."""
    return SHAPES.get(method, _SUPERVISED)


def check(spec: FinetuneSpec, context: CheckContext) -> list[Problem]:
    """Every mistake that can be seen without loading anything."""
    problems = [
        Problem(("trainer", name), *found)
        for name, value in spec.trainer.items()
        if (found := problem_with(spec.train.method, name, value)) is not None
    ]
    if spec.train.precision == "fp16" and spec.resources.device == "cpu":
        problems.append(
            Problem(
                ("train", "precision"), "fp16 can't be trained on a CPU", 'use "bf16" or "fp32"'
            )
        )
    problems += check_distributed(spec)
    problems += unused(spec)
    location = None
    if not context.is_reference(spec.base):
        try:
            location = resolve_model(spec.base, context.paths)
        except ModelOpsError as error:
            problems.append(Problem(("base",), str(error), error.hint))
    shapes: set[str] = set()
    for key, ref in (("train", spec.data.train), ("eval", spec.data.eval)):
        if ref is not None and not context.is_reference(ref):
            wrong, seen = check_data(spec, key, ref, context)
            problems += wrong
            shapes |= seen
    if location is not None:
        problems += list(_check_model(spec, location, shapes))
        problems += list(_check_space(spec, location, context))
    return problems


def check_data(
    spec: FinetuneSpec, key: str, ref: str, context: CheckContext
) -> tuple[list[Problem], set[str]]:
    """Whether the data is there and its first rows can be read; and the shapes they have."""
    try:
        location = resolve_data(ref, context.paths)
        shapes = first_shapes(spec.data, location)
    except ModelOpsError as error:
        return [Problem(("data", key), str(error), error.hint)], set()
    wrong = shapes - shapes_for(spec.train.method)
    if wrong:
        wanted = ", ".join(sorted(shapes_for(spec.train.method)))
        return [
            Problem(
                ("data", key),
                f"method {spec.train.method!r} can't learn from {', '.join(sorted(wrong))} rows",
                f"it learns from {wanted} rows",
            )
        ], shapes
    return [], shapes


def first_shapes(data: FinetuneData, location: DataLocation) -> set[str]:
    """Shapes of the first rows of a file.

    Raises:
        BadInput: a row among them is wrong, or there is none.
    """
    rows = islice(read_rows(location.path, location.version), _LOOKED_AT)
    return {e.shape for e in read_examples(rows, data.format, data.columns, location.name)}


def _check_model(
    spec: FinetuneSpec, location: ModelLocation, shapes: set[str]
) -> Iterator[Problem]:
    if "chat" in shapes and spec.data.template is None and not has_chat_template(location):
        yield Problem(
            ("base",),
            f"{location.name!r} has no chat template, and the data are conversations",
            'start from an instruct model, or set data.template = "chatml"',
        )
    template = spec.data.template
    if template not in (None, "chatml") and not Path(str(template)).expanduser().is_file():
        yield Problem(
            ("data", "template"), f"there is no file {template!r}", 'give "chatml" or a Jinja file'
        )
    if spec.train.method in ADAPTER_METHODS and isinstance(spec.train.targets, list):
        names = linear_names(location)
        for index, target in enumerate(spec.train.targets):
            if names and target.rpartition(".")[2] not in names:
                yield Problem(
                    ("train", "targets", index),
                    f"no module is called {target!r}",
                    f"linear modules of this model: {', '.join(sorted(names))}",
                )


def _check_space(
    spec: FinetuneSpec, location: ModelLocation, context: CheckContext
) -> Iterator[Problem]:
    from recipes.finetune.fit import disk_bytes

    needed = disk_bytes(spec, location)
    place = context.paths.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        yield Problem(
            (),
            f"the run needs {needed / 2**30:.1f} GiB of disk, {free / 2**30:.1f} GiB are free",
            f"free some space on {place}: checkpoints, the result and its base are kept there",
        )
