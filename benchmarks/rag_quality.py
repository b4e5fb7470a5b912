"""Retrieval quality with the default configuration, on the collections of MODELOPS_IR_DATA.

nDCG@10 of hybrid, BM25, dense and reciprocal rank fusion, each with its 95 % interval and the
paired difference to hybrid; and span recall on chunkeval: the share of the reference characters
that stand in the first 400 and 800 tokens of context (of the embedding model; what two chunks share
counts once; a chunk that does not fit is skipped).
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from engine.paths import StatePaths
from engine.types.rag import Hit
from recipes.rag.evaluate import bootstrap, compare, evaluate, read_queries
from recipes.rag.pipeline import Job, open_retriever, sync_index
from recipes.rag.retrieve import Retriever, Settings

MODES = ("hybrid", "bm25", "dense", "rrf")
BUDGETS = (400, 800)


def collection(folder: Path, paths: StatePaths) -> None:
    """Print the table of one BEIR-like collection."""
    report = sync_index(Job(folder.name, folder), paths)
    retriever, queries = open_retriever(folder.name, paths), read_queries(folder)
    runs = {m: evaluate(retriever, queries, Settings(mode=m), name=m) for m in MODES}
    sizes = (
        f"{report.documents} documents, {report.chunks} chunks, {runs['hybrid'].queries} queries"
    )
    print(f"\n### {folder.name}: {sizes}\n")
    print(f"indexed in {report.seconds:.0f} s\n")
    print("| | nDCG@10 (95 %) | recall@10 | MRR@10 | hybrid minus it (95 %) | CPU ms |")
    print("|---|---|---|---|---|---|")
    for mode, run in runs.items():
        mean, low, high = run.metrics["ndcg@10"]
        pair = compare(run, runs["hybrid"])
        gap = f"{pair['difference']:+.3f} ({pair['low']:+.3f} .. {pair['high']:+.3f})"
        print(
            f"| {mode} | {mean:.4f} ({low:.3f} .. {high:.3f}) | "
            f"{run.metrics['recall@10'][0]:.3f} | {run.metrics['mrr@10'][0]:.3f} | "
            f"{'' if mode == 'hybrid' else gap} | "
            f"{run.latency_ms['cpu_mean']:.0f} |"
        )


def covered(hits: tuple[Hit, ...], budget: int, retriever: Retriever) -> list[Hit]:
    """The hits that fit a budget of tokens, best first."""
    taken: list[Hit] = []
    used = 0.0
    for hit in hits:
        tokens = len(retriever.embedder.tokenizer.encode(hit.text, add_special_tokens=False).ids)
        shared = sum(
            max(0, min(hit.end, other.end) - max(hit.start, other.start))
            for other in taken
            if other.path == hit.path
        )
        cost = tokens * max(0.0, 1 - shared / (hit.end - hit.start))
        if used + cost <= budget:
            used += cost
            taken.append(hit)
    return taken


def span_recall(taken: list[Hit], path: str, references: list[dict[str, int]]) -> float:
    """Share of the reference characters that the hits cover."""
    total = hit_characters = 0
    for reference in references:
        start, end = reference["start_index"], reference["end_index"]
        inside = set()
        for hit in taken:
            if hit.path == path:
                inside.update(range(max(start, hit.start), min(end, hit.end)))
        total += end - start
        hit_characters += len(inside)
    return hit_characters / total


def chunkeval(folder: Path, paths: StatePaths) -> None:
    """Print span recall."""
    job = Job("chunkeval", folder, include=("*.md",), exclude=("ORIGIN.md",))
    report = sync_index(job, paths)
    retriever = open_retriever("chunkeval", paths)
    csv.field_size_limit(1 << 30)
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as file:
        questions = list(csv.DictReader(file))
    values: dict[int, list[float]] = {budget: [] for budget in BUDGETS}
    for question in questions:
        hits = retriever.search(question["question"], 60).hits
        references = json.loads(question["references"])
        for budget in BUDGETS:
            taken = covered(hits, budget, retriever)
            values[budget].append(span_recall(taken, f"{question['corpus_id']}.md", references))
    print(f"\n### chunkeval: {report.chunks} chunks, {len(questions)} questions\n")
    print("| context | span recall (95 %) |\n|---|---|")
    for budget, recalls in values.items():
        mean, low, high = bootstrap(recalls)
        print(f"| {budget} tokens | {mean:.4f} ({low:.3f} .. {high:.3f}) |")


def main() -> int:
    """Measure every collection that is there; the status is 1 where there is none."""
    root = Path(os.environ.get("MODELOPS_IR_DATA", "../shared/data/ir"))
    folders = [f for f in sorted(root.glob("*")) if f.is_dir()] if root.is_dir() else []
    if not folders:
        print(f"no collection in {root}: set MODELOPS_IR_DATA", file=sys.stderr)
        return 1
    print("## Retrieval quality, default configuration")
    with tempfile.TemporaryDirectory() as scratch:
        paths = StatePaths(Path(scratch)).ensure()
        for folder in folders:
            if (folder / "queries.jsonl").is_file():
                collection(folder, paths)
            elif (folder / "questions_df.csv").is_file():
                chunkeval(folder, paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
