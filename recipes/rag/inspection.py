"""Why was this found, and that not? Chunks, tokens, every candidate's scores, the exact prompt."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.errors import NotFound
from recipes.rag.answer import SYSTEM, user_message, weakness
from recipes.rag.context import build_context
from recipes.rag.model import AnswerModel
from recipes.rag.retrieve import Filters, Retriever, Settings

_CHUNK_COLUMNS = [
    "id", "number", "start", "end", "tokens", "headings", "tags", "date", "prefix", "search_text",
]  # fmt: skip


def inspect_index(retriever: Retriever) -> dict[str, Any]:
    """Settings, the model's fingerprint, indexes of the table and their tails."""
    table = retriever.generation.table
    indexes = []
    for index in table.list_indices():
        stats = table.index_stats(index.name)
        indexed = {
            "name": index.name,
            "type": str(index.index_type),
            "indexed": stats.num_indexed_rows if stats else None,
            "unindexed": stats.num_unindexed_rows if stats else None,
        }
        indexes.append(indexed)
    fragments = table.stats()["fragment_stats"]["num_fragments"]
    return {
        "meta": retriever.generation.meta.to_json(),
        "generation": retriever.generation.folder.name,
        "chunks": table.count_rows(),
        "fragments": fragments,
        "table_version": table.version,
        "indexes": indexes,
        "warnings": list(retriever.warnings()),
    }


def inspect_file(retriever: Retriever, path: str) -> dict[str, Any]:
    """The chunks of one file: offsets, tokens, headings, and the words BM25 sees.

    Raises:
        NotFound: the index has no chunk of it; the reason why not is told where it is known.
    """
    quoted = path.replace("'", "''")
    found = retriever.generation.table.search().where(f"path = '{quoted}'")
    rows = sorted(found.select(_CHUNK_COLUMNS).to_arrow().to_pylist(), key=lambda r: r["number"])
    record = retriever.generation.files["files"].get(path, {})
    if not rows:
        raise NotFound(
            f"{path} has no chunk in {retriever.generation.name}",
            why=record.get("reason") or "it is not among the files",
            hint=f"modelops-tui rag inspect {retriever.generation.name} lists the files",
        )
    chunks = []
    for row in rows:
        text = row.pop("search_text")
        row["text"] = text[row.pop("prefix") :]
        row["words"] = retriever.words(text)
        row["date"] = str(row["date"])
        chunks.append(row)
    return {"path": path, "remark": record.get("reason", ""), "chunks": chunks}


def inspect_query(
    retriever: Retriever,
    query: str,
    model: AnswerModel,
    k: int,
    budget: int,
    filters: Filters,
    settings: Settings,
) -> dict[str, Any]:
    """Every candidate with its scores before and after fusion, and what became of it.

    ``fate`` is ``source [n]``, ``beyond the first k``, or the reason it did not fit the budget.
    """
    everything = 2 * settings.candidates
    found = retriever.search(query, everything, filters, settings, explain=True)
    chosen = found.hits[:k]
    context = build_context(chosen, budget, model.count)
    used = {chunk: p.number for p in context.passages for chunk in p.chunks}
    refused = {text.partition(": ")[0]: text.partition(": ")[2] for text in context.left_out}
    candidates = []
    for rank, hit in enumerate(found.hits, 1):
        if hit.id in used:
            fate = f"source [{used[hit.id]}]"
        elif rank <= k:
            fate = f"left out of the prompt: {refused.get(hit.place, 'no room')}"
        else:
            fate = f"beyond the first {k}"
        candidates.append({"rank": rank, "fate": fate, **dataclasses.asdict(hit)})
    message = user_message(query, context.passages)
    prompt = model.render(
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
    )
    return {
        "query": query,
        "words": list(found.tokens),
        "settings": dataclasses.asdict(settings),
        "candidates": candidates,
        "context_tokens": context.tokens,
        "budget": budget,
        "weakness": weakness(query, dataclasses.replace(found, hits=tuple(chosen))),
        "prompt": prompt,
        "prompt_tokens": model.count(prompt, special=True),
        "seconds": found.seconds,
    }
