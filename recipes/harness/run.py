"""The ``lm-eval`` step: a model, and what it is compared with, on the same tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, MissingPart, StepFailed
from engine.models import ModelLocation, resolve_model
from engine.worker.context import StepResult
from recipes.evaluate.run import publish_report, side_by_side
from recipes.finetune.session import prepare_tokenizer
from recipes.harness.schema import HarnessSpec
from recipes.harness.tasks import read_tasks
from recipes.loading import Precision, choose_precision, load_causal_lm, load_tokenizer
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.worker.context import StepContext

#: Resamplings for the standard errors of metrics that have no formula for it.
_RESAMPLINGS = 1000


@dataclass(frozen=True)
class Line:
    """One metric of one task."""

    task: str
    metric: str
    value: float
    error: float | None
    """Standard error, where the harness gives one."""
    higher_is_better: bool
    rows: int


def run(ctx: StepContext) -> StepResult:
    """Score ``model`` and what it is compared with; publish the report.

    Raises:
        MissingPart: lm-eval is not installed.
        BadInput: a task can't be used.
        NotFound: a model or task is not there.
        StepFailed: the harness fails on a task.
    """
    spec = ctx.params
    if not isinstance(spec, HarnessSpec):
        raise TypeError(f"lm-eval was given a {type(spec).__name__}")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # read when datasets is imported: rows are files, and their cache is the run's own
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(ctx.work_dir / "rows")
    os.environ["HF_EVALUATE_OFFLINE"] = "1"
    tasks = read_tasks(spec.place, spec.names)
    import torch  # 1.5 s

    if ctx.threads:
        torch.set_num_threads(ctx.threads)
    torch.manual_seed(ctx.seed)
    precision = choose_precision(spec.precision, ctx.device)
    tuned = resolve_model(spec.model, ctx.paths)
    other = resolve_model(spec.base, ctx.paths) if spec.base else tuned.base
    if other is not None and other.kind == "adapter" and spec.base is None:
        other = other.root
    measured = [(tuned.name, score(ctx, spec, tuned, tasks, precision))]
    if other is not None:
        measured.append((other.name, score(ctx, spec, other, tasks, precision)))
    return report(ctx, spec, tuned, measured)


def score(
    ctx: StepContext,
    spec: HarnessSpec,
    location: ModelLocation,
    tasks: Sequence[dict[str, Any]],
    precision: Precision,
) -> list[Line]:
    """Load one model, run every task on it and let it go again."""
    ctx.phase(f"measuring {location.name}")
    tokenizer = load_tokenizer(location, paths=ctx.paths)
    prepare_tokenizer(tokenizer, None, location.name)
    model = load_causal_lm(location, precision.compute_dtype, ctx.device, paths=ctx.paths)
    with quiet_libraries():
        evaluator, wrapper, manager = harness()
        known_metrics(tasks)
        wrapped = wrapper(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=spec.batch,
            max_length=spec.max_length,
            device=ctx.device,
            mixed_precision_dtype=precision.autocast,
        )
        lines: list[Line] = []
        for done, task in enumerate(tasks):
            ctx.progress(done, len(tasks), "tasks")
            if ctx.should_stop:
                ctx.raise_stopped()
            lines += one_task(ctx, spec, evaluator, manager, wrapped, task)
        ctx.progress(len(tasks), len(tasks), "tasks")
    return lines


def harness() -> tuple[Any, Any, Any]:
    """``(evaluator module, model wrapper, task manager)`` of lm-eval, its templates sandboxed.

    Raises:
        MissingPart: lm-eval is not installed.
    """
    try:
        import lm_eval.utils
        from lm_eval import evaluator
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingPart(
            "lm-eval is not installed",
            why=str(error),
            hint="pip install 'modelops-tui[lm-eval]'",
        ) from error
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    for name in ("lm_eval", "lm-eval", "evaluate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a task's templates come with its file: they get no way to Python's own objects
    theirs = lm_eval.utils.env
    if not isinstance(theirs, ImmutableSandboxedEnvironment):
        safe = ImmutableSandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
        )
        safe.filters.update(theirs.filters)
        lm_eval.utils.env = safe
    return evaluator, HFLM, TaskManager(include_defaults=False)


def known_metrics(tasks: Sequence[dict[str, Any]]) -> None:
    """Refuse metrics that the harness would fetch from the hub.

    Raises:
        BadInput: naming task, metric and those there are.
    """
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import metric_registry

    for task in tasks:
        for entry in task.get("metric_list") or []:
            name = entry.get("metric") if isinstance(entry, dict) else None
            if name not in metric_registry or entry.get("hf_evaluate"):
                raise BadInput(
                    f"task {task['task']!r}: no metric {name!r} here",
                    why="the harness would fetch it from the hub; a job never downloads",
                    hint=f"there are {', '.join(sorted(metric_registry))}",
                )


def one_task(
    ctx: StepContext, spec: HarnessSpec, evaluator: Any, manager: Any, wrapped: Any, task: Any
) -> list[Line]:
    """One task's metrics, in the order the task names them."""
    from copy import deepcopy

    from jinja2 import TemplateError

    name = task["task"]
    try:
        found = evaluator.simple_evaluate(
            model=wrapped,
            # the harness changes what it is given
            tasks=[deepcopy(task)],
            num_fewshot=spec.fewshot,
            limit=spec.limit,
            apply_chat_template=spec.chat_template,
            task_manager=manager,
            bootstrap_iters=_RESAMPLINGS,
            log_samples=False,
            random_seed=ctx.seed,
            numpy_random_seed=ctx.seed,
            torch_random_seed=ctx.seed,
            fewshot_random_seed=ctx.seed,
        )
    except (
        TemplateError, KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError,
        OSError,
    ) as error:  # fmt: skip
        raise StepFailed(
            f"lm-eval fails on the task {name!r}",
            why=f"{type(error).__name__}: {error}".strip().splitlines()[0],
            hint="compare its keys with the columns of its rows",
        ) from error
    return lines_of(name, found)


def lines_of(name: str, found: dict[str, Any]) -> list[Line]:
    """The harness' ``metric,filter`` and ``metric_stderr,filter`` pairs of one task."""
    values: dict[str, Any] = found["results"][name]
    better = found.get("higher_is_better", {}).get(name, {})
    rows = int(found.get("n-samples", {}).get(name, {}).get("effective", 0))
    lines = []
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{chosen}")
        lines.append(
            Line(
                name,
                metric if chosen == "none" else f"{metric} ({chosen})",
                float(value),
                float(error) if isinstance(error, int | float) else None,
                better.get(metric) is not False,
                rows,
            )
        )
    if not lines:
        raise StepFailed(f"lm-eval gave no number for the task {name!r}", why=str(values)[:300])
    return lines


def mean_score(lines: Sequence[Line]) -> float | None:
    """Mean over tasks of each one's first metric that is better when higher; None: there is none.

    Tasks count alike, however many rows they have.
    """
    firsts: dict[str, float] = {}
    for line in lines:
        if line.higher_is_better:
            firsts.setdefault(line.task, line.value)
    return sum(firsts.values()) / len(firsts) if firsts else None


def report(
    ctx: StepContext,
    spec: HarnessSpec,
    tuned: ModelLocation,
    measured: Sequence[tuple[str, list[Line]]],
) -> StepResult:
    """The table beside the base, the report artifact and the outputs."""
    names = [name for name, _ in measured]
    first = measured[0][1]
    other = {(x.task, x.metric): x for x in measured[1][1]} if len(measured) > 1 else {}
    lines = [
        (f"{x.task} {x.metric}", x.value, other[key].value if key in other else None)
        for x in first
        for key in [(x.task, x.metric)]
    ]
    notes = [
        f"{x.task} {x.metric}: {x.rows} rows"
        + (f", standard error {x.error:.4f}" if x.error is not None else "")
        + ("" if x.higher_is_better else ", lower is better")
        for x in first
    ]
    outputs: dict[str, float] = {}
    for key, (_, found) in zip(("score", "base_score"), measured, strict=False):
        mean = mean_score(found)
        if mean is not None:
            outputs[key] = mean
    if len(measured) > 1 and {"score", "base_score"} <= outputs.keys():
        lines.append(("mean over tasks", outputs["score"], outputs["base_score"]))
    table = side_by_side("lm-eval", names, lines, notes)
    ctx.event("table", **table)
    numbers = {f"{x.task}/{x.metric}": x.value for x in first} | outputs
    body = {"model": tuned.name, "manifest": tuned.manifest, "tasks": spec.tasks or "bundled"}
    view = publish_report(ctx, tuned, {**body, "table": table, "numbers": numbers}, numbers)
    return StepResult({**outputs, "report": view.id}, (table,))
