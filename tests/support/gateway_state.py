"""A state directory where the names in the gateway's OpenAPI examples exist."""

from __future__ import annotations

import json
from pathlib import Path

from engine.api import Workbench

RECIPE = 'kind = "evaluate"\nmodel = "smollm2"\ndata = "house/heldout"\nmetric_rows = 1\n'


def fill(bench: Workbench, folder: Path) -> None:
    """Dataset ``tickets`` (tag ``good``), artifact ``support-bot`` 1, job 1 (ended), a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "tickets.jsonl"
    for count in (2, 3):
        lines = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(count)]
        rows.write_text("\n".join(map(json.dumps, lines)) + "\n")
        bench.data.import_file(rows, "tickets")
    bench.data.tag("tickets@latest", "good")
    report = folder / "report.json"
    report.write_text('{"perplexity": 12.5}\n')
    bench.artifacts.add(
        {"report.json": report}, name="support-bot", artifact_type="report", license="MIT"
    )
    bench.artifacts.promote("support-bot", "dev")
    job = bench.jobs.submit(bench.recipes.prepare(RECIPE))
    bench.jobs.cancel(job.id)
    bench.recipes.save("my-evaluation", RECIPE)
