"""Questions that a model makes up from the chunks of an index, for where nobody has real ones.

They flatter: a question made from a chunk shares its words. So they are marked in their file, go
into a folder of their own, and ``rag eval`` never mixes them with real ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import BadInput, Conflict
from recipes.rag.model import AnswerModel, Message
from recipes.rag.retrieve import Retriever
from recipes.rag.support import content_words

#: a question shares at least so many words with its chunk, and a chunk has at least so many
SHARED_WORDS, CHUNK_WORDS = 2, 12
#: chunks read from the table at a time
_READ = 64
#: a question that is cut off here had not come to its end
LONGEST = 110
_SYSTEM = "You write one short question that is answered by the text. Write only the question."
_EXAMPLE: tuple[Message, ...] = (
    {
        "role": "user",
        "content": "Text: Penguins eat krill and squid, and swim up to 25 km/h.\nQuestion:",
    },
    {"role": "assistant", "content": "What do penguins eat?"},
)
_WORDS = ("What", "How", "Which", "When", "Where", "Why", "Who", "Can", "Does", "Is", "Are")
_GRAMMAR = (
    f'root ::= ({" | ".join(map(json.dumps, _WORDS))}) " " [^?!:;"\\n\\[\\]]{{8,{LONGEST}}} "?"\n'
)


def generate(
    retriever: Retriever,
    model: AnswerModel,
    folder: Path,
    *,
    count: int = 50,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write ``queries.jsonl`` and ``qrels.tsv`` with up to ``count`` questions.

    Chunks are drawn at random, no file twice before every file had its turn. A question that shares
    too few words with its chunk, or that is there already, is thrown away and told.

    Args:
        retriever: the index.
        model: who writes.
        folder: where the two files go; made where it is missing.
        count: questions wanted.
        seed: of the drawing.
        force: write over an older generated set.
        progress: called with (questions, wanted).

    Raises:
        Conflict: the folder holds questions; real ones are never written over.
        BadInput: no question could be made.
    """
    _check(folder, force=force)
    made: list[dict[str, Any]] = []
    refused = 0
    known: set[str] = set()
    for chunk in _drawn(retriever, seed):
        if len(made) >= count or refused > 4 * count:
            break
        question = _ask(model, chunk)
        words = set(content_words(question))
        if len(words & set(content_words(chunk["text"]))) < SHARED_WORDS or question in known:
            refused += 1
            continue
        known.add(question)
        made.append({**chunk, "question": question})
        if progress is not None:
            progress(len(made), count)
    if not made:
        raise BadInput(
            f"{model.name} made no question that fits its chunk",
            why=f"{refused} were thrown away" if refused else "no chunk holds enough words",
            hint="try a larger --model",
        )
    _write(folder, made, model.name)
    return {
        "folder": str(folder),
        "questions": len(made),
        "refused": refused,
        "files": len({row["path"] for row in made}),
        "model": model.name,
    }


def _check(folder: Path, *, force: bool) -> None:
    file = folder / "queries.jsonl"
    if not file.is_file():
        return
    with file.open(encoding="utf-8-sig") as lines:
        real = any(not json.loads(line).get("generated") for line in lines if line.strip())
    if real:
        raise Conflict(f"{folder} holds real questions", hint="give generated ones another folder")
    if not force:
        raise Conflict(f"{folder} holds generated questions", hint="--force writes over them")


def _drawn(retriever: Retriever, seed: int) -> Iterator[dict[str, Any]]:
    """Chunks in the order in which they are asked about: one of each file, then the next."""
    table = retriever.generation.table
    found = table.search().select(["path", "start"]).with_row_id(True).to_arrow()
    rows = sorted(zip(*(found[n].to_pylist() for n in ("path", "start", "_rowid")), strict=True))
    random.Random(seed).shuffle(rows)  # noqa: S311 - a sample, no secret
    turns: dict[str, int] = {}
    order = []
    for path, _, row in rows:
        turns[path] = turns.get(path, 0) + 1
        order.append((turns[path], row))
    order.sort(key=lambda pair: pair[0])
    columns = ["id", "path", "start", "end", "headings", "prefix", "search_text"]
    for begin in range(0, len(order), _READ):
        wanted = [row for _, row in order[begin : begin + _READ]]
        taken = table.take_row_ids(wanted).select(columns).with_row_id().to_arrow().to_pylist()
        chunks = {chunk["_rowid"]: chunk for chunk in taken}
        for chunk in (chunks[row] for row in wanted):
            chunk["text"] = chunk.pop("search_text")[chunk.pop("prefix") :]
            if len(content_words(chunk["text"])) >= CHUNK_WORDS:
                yield chunk


def _ask(model: AnswerModel, chunk: dict[str, Any]) -> str:
    """A question about a chunk, or empty where the model wrote none."""
    text = f"Text: {chunk['headings']}\n{chunk['text']}\nQuestion:"
    messages: list[Message] = [
        {"role": "system", "content": _SYSTEM},
        *_EXAMPLE,
        {"role": "user", "content": text},
    ]
    said = "".join(model.stream(messages, grammar=_GRAMMAR, max_tokens=64)).strip()
    question, mark, _ = said.partition("?")
    whole = mark and "\n" not in question and len(question) < LONGEST
    return f"{question.strip()}?" if whole else ""


def _write(folder: Path, made: list[dict[str, Any]], model: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    queries, qrels = [], ["query-id\tcorpus-id\tscore"]
    for number, row in enumerate(made, 1):
        query = {
            "id": f"g{number}", "text": row["question"], "generated": True, "by": model,
            "chunk": row["id"], "start": row["start"], "end": row["end"],
        }  # fmt: skip
        queries.append(json.dumps(query, ensure_ascii=False))
        qrels.append(f"g{number}\t{row['path']}\t1")
    for name, lines in (("qrels.tsv", qrels), ("queries.jsonl", queries)):
        fresh = folder / f".{name}.new"
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fresh.replace(folder / name)
