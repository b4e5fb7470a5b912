"""What is shown at the end: the table, its notes, the Pareto front, and which level was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipes.measuring.proof import difference

if TYPE_CHECKING:
    from recipes.quantize.ladder import Rung
    from recipes.quantize.schema import QuantizeSpec

COLUMNS = (
    "level",
    "MB",
    "bits/w",
    "perplexity",
    "KL mean",
    "KL p99",
    "top-1 %",
    "tok/s",
    "prompt tok/s",
    "memory MB",
    "neutral ppl",
    "neutral KL",
    "round trip",
    "note",
)


def pareto(rungs: Sequence[Rung]) -> list[Rung]:
    """The levels that no other one beats in both size and KL, smallest first."""
    front: list[Rung] = []
    for rung in sorted(rungs, key=lambda r: (r.size_bytes, r.main().kl)):
        if not front or rung.main().kl < front[-1].main().kl:
            front.append(rung)
    return front


def choose(passed: Sequence[Rung], spec: QuantizeSpec) -> Rung | None:
    """The level that becomes ``model``: under a budget the least KL, else the first one named."""
    if not passed:
        return None
    if spec.budget is not None:
        return min(passed, key=lambda r: (r.main().kl, r.size_bytes))
    by_name = {r.level: r for r in passed}
    return next((by_name[name] for name in spec.levels if name in by_name), passed[0])


def chart(rungs: Sequence[Rung]) -> dict[str, Any]:
    """Points of size (MB) against mean KL, the Pareto front marked, for ``engine.api.charts``."""
    front = {r.level for r in pareto(rungs)}
    return {
        "title": "What a smaller file costs",
        "x": "MB",
        "y": "mean KL divergence from the source, nats",
        "points": [
            {
                "name": r.level,
                "x": round(r.size_bytes / 1e6, 3),
                "y": r.main().kl,
                "front": r.level in front,
            }
            for r in rungs
        ],
    }


def tables(
    rungs: Sequence[Rung],
    spec: QuantizeSpec,
    notes: Sequence[str],
    best: Rung | None,
    passed: int,
) -> tuple[Mapping[str, Any], ...]:
    """The report of the step: one table, with its chart."""
    front = {r.level for r in pareto(rungs)}
    rows = [_row(r, spec, front, best) for r in sorted(rungs, key=lambda r: -r.size_bytes)]
    figures = rungs[0].main()
    lines = [
        f"source: perplexity {figures.source_perplexity:.3f} on {figures.tokens} tokens of "
        f"{figures.text}; KL is of the source's distribution from the result's, in nats",
        *notes,
    ]
    for rung in rungs:
        if rung.fallbacks:
            lines.append(
                f"{rung.level}: {len(rung.fallbacks)} tensors fell back to another type, such as "
                f"{rung.fallbacks[0]}"
            )
        if (why := difference(rung.proof)) is not None:
            lines.append(f"{rung.level}: round trip passed; {why}")
    if spec.max_kl is not None and passed < len(rungs):
        lines.append(f"{len(rungs) - passed} levels cost more than max_kl = {spec.max_kl}")
    return (
        {
            "title": "Quantization",
            "columns": list(COLUMNS),
            "rows": rows,
            "notes": lines,
            "chart": chart(rungs),
        },
    )


def _row(rung: Rung, spec: QuantizeSpec, front: set[str], best: Rung | None) -> list[Any]:
    texts = list(rung.measured.values())
    main, neutral = texts[0], texts[1] if len(texts) > 1 else None
    marks = []
    if best is not None and rung.level == best.level:
        marks.append("chosen")
    if rung.level in front:
        marks.append("Pareto")
    if spec.max_kl is not None and main.kl > spec.max_kl:
        marks.append("over max_kl")
    return [
        rung.level,
        round(rung.size_bytes / 1e6, 1),
        round(rung.bits_per_weight, 2),
        round(main.perplexity, 3),
        round(main.kl, 5),
        round(main.kl_p99, 4),
        round(100 * main.top1, 1),
        round(rung.tokens_per_s, 1),
        round(main.tokens_per_s, 1),
        round(rung.memory_bytes / 1e6),
        None if neutral is None else round(neutral.perplexity, 3),
        None if neutral is None else round(neutral.kl, 5),
        f"{rung.proof['exact']}/{len(rung.proof['cases'])} exact",
        ", ".join(marks),
    ]


def comparison(rungs: Sequence[Rung], before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The change against the last run of the same recipe, for levels that both have; or None.

    Args:
        rungs: of this run.
        before: ``report.json`` of the run before.
    """
    if before is None:
        return None
    old = {r["level"]: r for r in before.get("levels", [])}
    rows = []
    for rung in rungs:
        if rung.level not in old:
            continue
        was = old[rung.level]
        figures = rung.main()
        measured = was["measured"].get(figures.text)
        if measured is None or measured["tokens"] != figures.tokens:
            continue
        rows.append(
            [
                rung.level,
                round((rung.size_bytes - was["size_bytes"]) / 1e6, 1),
                round(figures.perplexity - measured["perplexity"], 3),
                round(figures.source_perplexity - measured["source_perplexity"], 3),
                round(figures.kl - measured["kl"], 5),
                round(100 * (figures.top1 - measured["top1"]), 1),
                round(rung.tokens_per_s - was["tokens_per_s"], 1),
            ]
        )
    if not rows:
        return None
    columns = ["level", "MB", "perplexity", "source ppl", "KL mean", "top-1 %", "tok/s"]
    return {
        "title": "Change against the last run",
        "columns": columns,
        "rows": rows,
        "notes": [f"the last run quantized {before.get('model', 'another model')}"],
    }
