"""``modelops-tui rag``: index folders, search, ask, inspect, evaluate."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput, ModelOpsError, NotFound
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Ask documents: index, search, ask, evaluate.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
IndexName = Annotated[str, typer.Argument(help="Index, or an artifact such as NAME@prod.")]
PathGlob = Annotated[str, typer.Option("--path", help="Only files that fit this glob.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only documents with this tag.")]
Since = Annotated[str, typer.Option(help="Only documents of this day or later.")]
Reranker = Annotated[
    Path | None, typer.Option("--reranker", help="Folder of a cross-encoder for the best hits.")
]
Until = Annotated[str, typer.Option(help="Only documents of this day or earlier.")]
Mode = Annotated[str, typer.Option(help="hybrid, bm25, dense or rrf.")]


@app.command()
def sync(
    folder: Annotated[
        str, typer.Argument(help="A folder, docs (the bundled documentation), or an index again.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Index (default: folder name).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embedding model (at first: all-minilm-l6-v2).")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the documents (at first: English).")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only these globs.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Never these globs.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="GLOB=TAG: tag the documents that fit.")
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a chunk (at first: 128).", min=16, max=4096)
    ] = None,
    chunk_overlap: Annotated[
        int | None, typer.Option(help="Tokens that neighbours share (at first: 32).", min=0)
    ] = None,
    follow_links: Annotated[
        bool | None, typer.Option(help="Follow symbolic links (at first: not).")
    ] = None,
    max_file_mb: Annotated[
        int | None, typer.Option(help="Larger files are left out (at first: 64).", min=1)
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Anew, then switch.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on at every change; ctrl+c.")] = False,
    as_json: Json = False,
) -> None:
    """Make an index of a folder, or bring it up to date: only what changed is embedded.

    What is not given is as it was for this index the last time.
    """
    out.choose(as_json=as_json)
    index = name or Path(folder).name.lower().replace(" ", "-")
    rag = Workbench().rag
    options = {
        "model": model, "language": language, "include": include, "exclude": exclude,
        "tags": _tags_by_glob(tag), "chunk_tokens": chunk_tokens, "chunk_overlap": chunk_overlap,
        "follow_links": follow_links, "max_file_mb": max_file_mb,
    }  # fmt: skip
    if watch:
        _watch(rag.watch(folder, index, **options))
        return
    events = rag.sync(folder, index, rebuild=rebuild, **options)
    for event in events:
        if "result" in event:
            out.status_end()
            _show_report(index, event["result"])
        else:
            out.status(f"{event['done']}/{event['total']} files  {event['name']}")


def _tags_by_glob(words: list[str] | None) -> dict[str, list[str]] | None:
    """``reports/*=finance`` as the recipe's ``tags``; None where nothing was said."""
    if not words:
        return None
    found: dict[str, list[str]] = {}
    for word in words:
        glob, _, tag = word.rpartition("=")
        if not glob or not tag:
            raise BadInput(f"--tag {word!r} is no GLOB=TAG", hint="--tag 'reports/*=finance'")
        found.setdefault(glob, []).append(tag)
    return found


def _watch(events: Any) -> None:
    try:
        for event in events:
            if event["type"] == "synced" and out.format is not Format.TABLE:
                out.json_line(event["report"])
            elif event["type"] == "synced":
                report = event["report"]
                counts = f"{report['documents']} documents, {report['chunks']} chunks"
                when = datetime.now().astimezone().isoformat(timespec="seconds")
                out.line(f"{when} {event['changed']} changed; {counts}, {report['seconds']:.1f} s")
            elif event["type"] == "progress":
                out.status(f"{event['done']}/{event['total']} files  {event['name']}")
    except KeyboardInterrupt:
        out.say("no longer watching; the index stays as it is")


def _show_report(index: str, report: dict[str, Any]) -> None:
    if out.format is not Format.TABLE:
        out.json(report)
        return
    changes = ", ".join(
        f"{report[n]} {n}" for n in ("added", "changed", "renamed", "removed", "unchanged")
    )
    out.line(f"{index}: {report['documents']} documents, {report['chunks']} chunks ({changes})")
    kept = f"{report['embedded_chunks']} chunks embedded, {report['reused_chunks']} kept"
    out.line(f"{kept}, {report['seconds']:.1f} s")
    trouble = {**report["warnings"], **report["unreadable"]}
    if trouble:
        out.line()
        out.rows(("file", "remark"), [{"file": p, "remark": w} for p, w in sorted(trouble.items())])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every index."""
    out.choose(as_json=as_json)
    rows = []
    for view in Workbench().rag.list():
        when = datetime.fromtimestamp(view.updated).astimezone().isoformat(timespec="seconds")
        stale = (view.stale or None) if out.format is Format.TABLE else view.stale
        rows.append({**dataclasses.asdict(view), "updated": when, "stale": stale})
    out.rows(
        ("name", "documents", "chunks", "unreadable", "updated", "model", "folder", "stale"),
        rows,
        empty="no index yet: modelops-tui rag sync FOLDER (try: rag sync docs)",
    )


@app.command()
def publish(index: IndexName, as_json: Json = False) -> None:
    """Sign an index as it answers now: promoted, pushed and verified like a model."""
    out.choose(as_json=as_json)
    manifest = Workbench().rag.publish(index)
    if out.format is not Format.TABLE:
        out.json({"index": index, "manifest": manifest})
    else:
        out.line(manifest)


@app.command("rm")
def remove(index: IndexName, as_json: Json = False) -> None:
    """Delete an index; signed artifacts of it stay in the registry."""
    out.choose(as_json=as_json)
    freed = Workbench().rag.remove(index)
    if out.format is not Format.TABLE:
        out.json({"index": index, "freed_bytes": freed})
    else:
        out.say(f"{index} is removed; {freed / 1e6:.1f} MB are free again")


@app.command()
def search(
    index: IndexName,
    query: Annotated[str, typer.Argument(help="Plain words.")],
    k: Annotated[int, typer.Option("-k", help="Hits.", min=1, max=200)] = 5,
    path: PathGlob = "",
    tag: Tags = None,
    since: Since = "",
    until: Until = "",
    mode: Mode = "hybrid",
    reranker: Reranker = None,
    as_json: Json = False,
) -> None:
    """Find the best passages."""
    out.choose(as_json=as_json)
    found = Workbench().rag.search(
        index, query, k, path=path, tags=tag or [], since=since, until=until,
        settings={"mode": mode, **_reranked(reranker)},
    )  # fmt: skip
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(found))
        return
    for number, hit in enumerate(found.hits, 1):
        words = "-" if hit.bm25 is None else f"{hit.bm25:.2f}"
        out.line(f"{number}. {hit.place}")
        again = "" if hit.rerank is None else f"  reranked {hit.rerank:.3f}"
        out.line(f"   score {hit.score:.3f}  bm25 {words}  cosine {hit.cosine:.3f}{again}")
        out.line("   " + " ".join(hit.text.split())[:300])
    for warning in found.warnings:
        out.say(f"warning: {warning}")
    _tell_stale(index)
    if not found.hits:
        out.say("nothing found")


@app.command()
def ask(
    index: IndexName,
    question: Annotated[
        str | None, typer.Argument(help="In plain words; without it, a conversation.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Who answers: a deployment, or a model (default: the packaged one).")
    ] = "",
    k: Annotated[int, typer.Option("-k", help="Passages to consider.", min=1, max=50)] = 8,
    budget: Annotated[int, typer.Option(help="Tokens of sources in the prompt.", min=64)] = 800,
    path: PathGlob = "",
    tag: Tags = None,
    since: Since = "",
    until: Until = "",
    mode: Mode = "hybrid",
    reranker: Reranker = None,
    as_json: Json = False,
) -> None:
    """Answer from the documents, each sentence with its verified source."""
    out.choose(as_json=as_json)
    rag = Workbench().rag
    options = {
        "k": k, "budget": budget, "path": path, "tags": tag or [], "since": since, "until": until,
        "model": model, "conversation": "" if question else "shell",
        "settings": {"mode": mode, **_reranked(reranker)},
    }  # fmt: skip
    _tell_stale(index)
    if question:
        _ask_once(rag, index, question, options)
        return
    out.say("ask on; an empty line ends")
    while line := typer.prompt("?", default="", show_default=False, err=True).strip():
        try:
            _ask_once(rag, index, line, options)
        except ModelOpsError as error:  # a deployment that ended, say: the talk goes on
            out.error(error)
    rag.close()


def _tell_stale(index: str) -> None:
    """Say it where the folder is no longer what was indexed; artifacts stay as they were made."""
    with suppress(NotFound):
        if stale := Workbench().rag.show(index).stale:
            out.say(f"warning: {index}: {stale}\nhint: modelops-tui rag sync {index}")


def _ask_once(rag: Any, index: str, question: str, options: dict[str, Any]) -> None:
    written = ""
    for event in rag.ask(index, question, **options):
        if event.get("type") == "token":
            # on the status line: what stays is the answer with its checked citations
            written += event["text"]
            out.status(written[-(shutil.get_terminal_size().columns - 1) :])
        elif event.get("type") in ("phase", "sources"):
            out.status(event.get("name") or f"{len(event['sources'])} sources")
        elif "result" in event:
            out.status_clear()
            _show_answer(event["result"])


def _show_answer(answer: Any) -> None:
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(answer))
        return
    if answer.quotes:
        for quote in answer.quotes:
            out.line(f'"{quote.sentence}" [{quote.source}]')
        out.say(f"quoted from the sources: {answer.reason}")
    elif answer.found:
        for c in answer.citations:
            mark = "" if c.supported else "  (not supported by its source)"
            if not c.source:
                mark = "  (no source supports it)"
            out.line(f"{c.sentence}{f' [{c.source}]' if c.source else ''}{mark}")
    else:
        out.line(answer.text)
        out.say(f"why: {answer.reason}")
    cited = {c.source for c in answer.quotes or answer.citations}
    for source in answer.sources:
        if source.number in cited:
            out.line(f"  [{source.number}] {source.place}")
    out.say(
        f"{answer.context_tokens} of {answer.budget_tokens} tokens of sources, "
        f"prompt {answer.prompt_tokens}, {answer.model}, "
        f"{answer.seconds.get('retrieve', 0):.2f} s to find, "
        f"{answer.seconds.get('generate', 0):.1f} s to answer"
    )
    for reason in answer.left_out:
        out.say(f"left out: {reason}")


@app.command()
def inspect(
    index: IndexName,
    file: Annotated[str, typer.Option("--file", help="Show the chunks of this file.")] = "",
    query: Annotated[str, typer.Option("--query", help="Show every candidate's scores.")] = "",
    k: Annotated[int, typer.Option("-k", help="Passages the prompt may have.", min=1)] = 8,
    budget: Annotated[int, typer.Option(help="Tokens of sources.", min=64)] = 800,
    model: Annotated[str, typer.Option(help="Whose prompt: a deployment or a model.")] = "",
    path: PathGlob = "",
    tag: Tags = None,
    since: Since = "",
    until: Until = "",
    mode: Mode = "hybrid",
    reranker: Reranker = None,
    as_json: Json = False,
) -> None:
    """See the chunks, words, scores and the prompt; without options, the files and the table."""
    out.choose(as_json=as_json)
    rag = Workbench().rag
    if not file and not query:
        rag.show(index)
    found = rag.inspect(
        index, file=file, query=query, k=k, budget=budget, model=model, path=path, tags=tag or [],
        since=since, until=until, settings={"mode": mode, **_reranked(reranker)},
    )  # fmt: skip
    if out.format is not Format.TABLE:
        out.json(found)
    elif file:
        for chunk in found["chunks"]:
            out.line(
                f"#{chunk['number']} [{chunk['start']}:{chunk['end']}] {chunk['tokens']} tokens"
            )
            out.line(f"   {chunk['headings']}")
            out.line("   " + " ".join(chunk["text"].split()))
            out.line("   words: " + " ".join(chunk["words"]))
    elif query:
        _show_query(found)
    else:
        out.record({n: found[n] for n in ("generation", "chunks", "fragments", "table_version")})
        out.rows(("name", "type", "indexed", "unindexed"), found["indexes"])
        out.rows(
            ("path", "status", "chunks", "size_bytes", "reason"),
            [dataclasses.asdict(f) for f in rag.files(index)],
        )


def _show_query(found: dict[str, Any]) -> None:
    out.line("words: " + " ".join(found["words"]))
    columns = (
        "rank", "score", "bm25", "bm25_scaled", "bm25_rank", "cosine", "cosine_scaled",
        "dense_rank", "place", "fate",
    )  # fmt: skip
    rows = []
    for c in found["candidates"]:
        row = {n: round(v, 3) if isinstance(v, float) else v for n, v in c.items()}
        rows.append({**row, "place": f"{c['path']} [{c['start']}:{c['end']}]"})
    out.rows(columns, rows)
    out.line(f"prompt ({found['prompt_tokens']} tokens, sources {found['context_tokens']} of "
             f"{found['budget']}):")  # fmt: skip
    out.line(found["prompt"])


@app.command("eval")
def eval_(
    queries: Annotated[Path, typer.Argument(help="Folder with queries.jsonl and qrels.tsv.")],
    index: Annotated[str, typer.Option(help="Search this index, not the folder's docs.")] = "",
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", help="hybrid, bm25, dense, rrf, or key=value,...: the first is A."
        ),
    ] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="One row a query.")] = False,
    as_json: Json = False,
) -> None:
    """Measure: nDCG@10, recall@k, MRR with 95 % intervals; several --config are compared."""
    out.choose(as_json=as_json)
    configurations = {text: _settings(text) for text in config or ["hybrid"]}
    result: dict[str, Any] = {}
    events = Workbench().rag.evaluate(str(queries), index, configurations=configurations)
    for event in events:
        if "result" in event:
            out.status_end()
            result = event["result"]
        else:
            out.status(f"{event['done']}/{event['total']} {event['unit']}")
    if out.format is not Format.TABLE:
        out.json(result)
        return
    kinds = list(dict.fromkeys(run["questions"] for run in result["evaluations"]))
    if len(kinds) > 1:
        out.say("a mixed set: real and generated questions are reported apart")
    elif kinds == ["generated"]:
        out.say("generated questions: they flatter; real ones may give other figures")
    if missing := max(run["missing"] for run in result["evaluations"]):
        out.say(f"warning: {missing} relevant documents are not in the index: not found, that is")
    rows = []
    for run in result["evaluations"]:
        for metric, (mean, low, high) in run["metrics"].items():
            interval = f"{low:.3f} .. {high:.3f}"
            row = {"configuration": run["name"], "questions": run["questions"]}
            row.update(metric=metric, mean=round(mean, 4))
            rows.append({**row, "95 %": interval, "queries": run["queries"]})
        row = {"configuration": run["name"], "questions": run["questions"]}
        rows.append({**row, "metric": "ms p50", "mean": run["latency_ms"]["p50"]})
    out.rows(("configuration", "questions", "metric", "mean", "95 %", "queries"), rows)
    for pair in result["comparisons"]:
        out.line()
        out.line(
            f"{pair['b']} against {pair['a']} ({pair['questions']} questions): "
            f"{pair['difference']:+.4f} {pair['metric']} "
            f"(95 % {pair['low']:+.4f} .. {pair['high']:+.4f}), {pair['better']} better, "
            f"{pair['worse']} worse, {pair['equal']} equal"
        )
        out.rows(("query", "text", pair["a"], pair["b"], "difference"), pair["queries"][:20])
    if per_query:
        for run in result["evaluations"]:
            out.line()
            out.rows(("query", "ndcg@10", "mrr@10", "recall@10", "first_relevant", "text"),
                     run["per_query"])  # fmt: skip


@app.command()
def questions(
    index: IndexName,
    folder: Annotated[Path, typer.Argument(help="Where queries.jsonl and qrels.tsv go.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Questions.", min=1)] = 50,
    model: Annotated[str, typer.Option(help="Who writes: a deployment or a model.")] = "",
    seed: Annotated[int, typer.Option(help="Of the chunks that are drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write over a generated set.")] = False,
    as_json: Json = False,
) -> None:
    """Let a model make up questions, marked as generated: for rag eval FOLDER --index INDEX."""
    out.choose(as_json=as_json)
    events = Workbench().rag.questions(
        index, str(folder), count=count, model=model, seed=seed, force=force
    )
    result: dict[str, Any] = {}
    for event in events:
        if "result" in event:
            out.status_end()
            result = event["result"]
        elif "done" in event:
            out.status(f"{event['done']}/{event['total']} {event['unit']}")
    if out.format is not Format.TABLE:
        out.json(result)
        return
    out.line(
        f"{result['questions']} questions about {result['files']} files in {result['folder']}, "
        f"by {result['model']}; {result['refused']} did not fit their chunk"
    )
    out.say(f"next: modelops-tui rag eval {folder} --index {index}")


def _reranked(folder: Path | None) -> dict[str, Any]:
    return {"reranker": str(folder.expanduser().absolute())} if folder else {}


def _settings(text: str) -> dict[str, Any]:
    """``bm25`` or ``weight=0.4,candidates=200`` as settings."""
    settings: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            settings["mode"] = name
        elif value.isdigit():
            settings[name] = int(value)
        else:
            try:
                settings[name] = float(value)
            except ValueError:
                settings[name] = value
    if folder := settings.get("reranker"):
        settings.update(_reranked(Path(str(folder))))
    return settings
