"""Document indexes from outside: sync, search, ask, inspect, evaluate.

The heavy work runs in a service process of the ``rag`` kind, kept for later calls; close this
object (or leave the program) and it ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NotFound
from engine.paths import StatePaths
from engine.types.rag import (
    Answer,
    Citation,
    FileView,
    Hit,
    IndexView,
    Passage,
    Retrieval,
)

if TYPE_CHECKING:
    from engine.service import Service


class Rag:
    """The indexes of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    @cached_property
    def _service(self) -> Service:
        from engine.service import Service

        return Service("rag", self._paths)

    def close(self) -> None:
        """End the service process, where one runs."""
        service: Service | None = self.__dict__.pop("_service", None)
        if service is not None:
            service.close()

    # -- looking ----------------------------------------------------------------------------------

    def list(self) -> tuple[IndexView, ...]:
        """Every index that answers, by name."""
        pointers = sorted(self._paths.indexes.glob("*/index.json"))
        return tuple(self._view(p.parent) for p in pointers)

    def show(self, name: str) -> IndexView:
        """One index.

        Raises:
            NotFound: none of that name.
        """
        folder = self._paths.indexes / name
        if "/" in name or not (folder / "index.json").is_file():
            names = ", ".join(view.name for view in self.list())
            raise NotFound(
                f"there is no index {name!r}",
                why=f"indexes: {names}" if names else "no folder was indexed yet",
                hint="modelops-tui rag sync FOLDER --name NAME",
            )
        return self._view(folder)

    def files(self, name: str) -> tuple[FileView, ...]:
        """Every file an index knows, with the reason where it could not be read."""
        self.show(name)
        state = self._read(self._generation(name) / "files.json").get("files", {})
        return tuple(
            FileView(path, r["status"], r["chunks"], r["size"], r["reason"])
            for path, r in sorted(state.items())
        )

    def _generation(self, name: str) -> Path:
        folder = self._paths.indexes / name
        return folder / str(self._read(folder / "index.json").get("generation", ""))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return value

    def _view(self, folder: Path) -> IndexView:
        pointer = self._read(folder / "index.json")
        generation = folder / str(pointer.get("generation", ""))
        meta = self._read(generation / "meta.json")
        state = [pointer.get("generation"), pointer.get("table_version")]
        return IndexView(
            name=folder.name,
            folder=str(meta.get("folder", "")),
            generation=generation.name,
            model=str(meta.get("fingerprint", {}).get("model", "")),
            documents=int(pointer.get("documents", 0)),
            chunks=int(pointer.get("chunks", 0)),
            unreadable=int(pointer.get("unreadable", 0)),
            updated=float(pointer.get("updated", 0.0)),
            size_bytes=sum(f.stat().st_size for f in generation.rglob("*") if f.is_file()),
            manifest=pointer.get("manifest") if pointer.get("manifest_of") == state else None,
            stale=self._stale(generation, Path(str(meta.get("folder", "")))),
        )

    def _stale(self, generation: Path, folder: Path) -> str:
        """Why a sync would find something to do, or empty; new files are found by a sync only."""
        if not folder.is_dir():
            return "its folder is gone"
        if any((folder / n).is_file() for n in ("docs.jsonl", "corpus.jsonl")):
            return ""  # a collection's entries are lines of one file
        changed = gone = 0
        for path, known in self._read(generation / "files.json").get("files", {}).items():
            try:
                stat = (folder / path).stat()
            except OSError:
                gone += 1
                continue
            changed += (known["size"], known["mtime_ns"]) != (stat.st_size, stat.st_mtime_ns)
        told = [f"{n} {what}" for n, what in ((changed, "changed"), (gone, "gone")) if n]
        return f"files since the sync: {', '.join(told)}" if told else ""

    # -- working ----------------------------------------------------------------------------------

    def sync(self, folder: str, index: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Index a folder now, outside of a job: progress events, then ``{"result": report}``.

        Args:
            folder: a folder, ``docs`` for the bundled documentation, or the index's own name for
                the folder it was made of.
            index: name of the index.
            options: model, language, chunk_tokens, chunk_overlap, include, exclude, tags,
                follow_links, max_file_mb, rebuild. What is not given (or None) is as it was the
                last time, where that was the same folder.
        """
        yield from self._service.call("sync", folder=folder, index=index, **options)

    def remove(self, name: str) -> int:
        """Delete an index; artifacts that were made of it stay in the registry.

        Returns:
            Bytes that were freed.

        Raises:
            NotFound: none of that name.
            Conflict: a sync of it runs.
        """
        return int(self._service.result("remove", index=name))

    def publish(self, name: str) -> str:
        """Sign what an index answers from, as an artifact of the same name; its manifest id.

        Raises:
            NotFound: none of that name.
            Conflict: a sync of it runs.
        """
        view = self.show(name)
        # of its current state, where that is signed already
        return view.manifest or str(self._service.result("publish", index=name))

    def watch(self, folder: str, index: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Keep an index up to date until the iterator is closed: ``synced`` after each change.

        Args:
            folder: a folder.
            index: name of the index.
            options: those of :meth:`sync`, and ``sweep``: seconds between looks without a change.
        """
        yield from self._service.call("watch", folder=folder, index=index, **options)

    def search(self, index: str, query: str, k: int = 10, **options: Any) -> Retrieval:
        """The best chunks for a query.

        Args:
            index: name of an index, or an artifact (``name@stage``, ``sha256:...``).
            query: plain words.
            k: at most this many.
            options: path, tags, since, until (filters, applied before the search), settings.
        """
        value = self._service.result("search", index=index, query=query, k=k, **options)
        value["hits"] = tuple(Hit(**hit) for hit in value["hits"])
        for name in ("tokens", "warnings"):
            value[name] = tuple(value[name])
        return Retrieval(**value)

    def ask(self, index: str, question: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Answer from the documents: ``sources``, ``phase`` and ``token`` events as they come.

        The last item is ``{"result": Answer}``.

        Args:
            index: name of an index, or an artifact.
            question: in plain words.
            options: model (a deployment's name or a model), k, budget (tokens of sources),
                conversation (any text: earlier questions under it are remembered by this object),
                history (earlier (question, answer) pairs where the caller remembers them), path,
                tags, since, until, settings.
        """
        for event in self._service.call("ask", index=index, question=question, **options):
            if "result" in event:
                yield {"result": answer_from_json(event["result"])}
            else:
                yield event

    def inspect(self, index: str, **options: Any) -> dict[str, Any]:
        """Look inside an index.

        Args:
            index: name of an index, or an artifact.
            options: ``file`` (its chunks, offsets, words), or ``query`` (every candidate with all
                scores, why it was left out, the exact prompt), else the table itself.
        """
        value: dict[str, Any] = self._service.result("inspect", index=index, **options)
        return value

    def evaluate(self, queries: str, index: str = "", **options: Any) -> Iterator[dict[str, Any]]:
        """Measure retrieval on a BEIR-like folder: progress, then ``{"result": ...}``.

        Args:
            queries: a folder with queries.jsonl and qrels.tsv.
            index: to search; empty: the folder's own documents, indexed first.
            options: configurations: name -> settings of ``recipes.rag.retrieve.Settings``; the
                first is compared with each of the others. Of a mixed set, real and generated
                questions are measured and compared apart.
        """
        folder = str(Path(queries).expanduser().absolute())
        yield from self._service.call("evaluate", queries=folder, index=index, **options)

    def questions(self, index: str, folder: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Let a model make up questions about an index: progress, then ``{"result": ...}``.

        They are marked as generated, and ``evaluate`` reports them apart from real ones.

        Args:
            index: name of an index, or an artifact.
            folder: where queries.jsonl and qrels.tsv go; one with real questions is refused.
            options: count, seed, model (a deployment's name or a model), force.
        """
        place = str(Path(folder).expanduser().absolute())
        yield from self._service.call("questions", index=index, folder=place, **options)


def answer_from_json(value: dict[str, Any]) -> Answer:
    """The data class of an answer that crossed a process boundary."""
    for name in ("citations", "quotes"):
        value[name] = tuple(Citation(**c) for c in value[name])
    value["sources"] = tuple(
        Passage(**{**p, "chunks": tuple(p["chunks"])}) for p in value["sources"]
    )
    value["left_out"] = tuple(value["left_out"])
    return Answer(**value)
