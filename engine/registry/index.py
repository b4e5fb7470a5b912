"""``index.db``: the fold's tables, derived from the log and the manifests, rebuilt when it is lost.

sqlite-utils makes the tables; reads use plain sqlite3, so that a list never pays its import
(0.1-0.5 s of CPU). Whoever writes holds the registry's lock.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from engine.errors import IntegrityError
from engine.registry import fold
from engine.registry.documents import Event, validate
from engine.registry.layout import Layout
from engine.registry.log import (
    EMPTY,
    Head,
    SignedEvent,
    check_link,
    event_json,
    read_log,
    writers,
)
from engine.registry.trust import Trust

SCHEMA = "6"

_TABLES: dict[str, tuple[dict[str, type], tuple[str, ...]]] = {
    "meta": ({"key": str, "value": str}, ("key",)),
    "heads": ({"writer": str, "seq": int, "digest": str, "author": str}, ("writer",)),
    "events": (
        {
            "writer": str, "seq": int, "clock": int, "digest": str, "author": str, "signers": str,
            "time": str, "who": str, "type": str, "name": str, "stage": str, "manifest": str,
            "event": str, "verdict": str,
        },
        ("writer", "seq"),
    ),
    "artifacts": (
        {
            "id": int, "manifest": str, "name": str, "version": str, "type": str, "created": float,
            "size": int, "files": int, "license": str, "tags": str, "metrics": str, "run": str,
            "parents": str, "signed_by": str, "writer": str, "seq": int, "key": str, "hidden": int,
            "yanked": int, "reason": str, "deleted": int, "pickles": int, "missing": int,
        },
        ("id",),
    ),
    "edges": ({"child": str, "parent": str, "rel": str}, ("child", "parent", "rel")),
    "metrics": (
        {"manifest": str, "name": str, "value": float, "artifact": int},
        ("manifest", "name"),
    ),
    "labels": ({"tag": str, "artifact": int}, ("tag", "artifact")),
    "stages": (
        {"name": str, "stage": str, "manifest": str, "since": str, "writer": str, "seq": int},
        ("name", "stage"),
    ),
    "tags": ({"name": str, "tag": str, "manifest": str}, ("name", "tag")),
    "keys": ({"key": str, "manifest": str}, ("key",)),
    "approvals": (
        {"name": str, "stage": str, "manifest": str, "key": str, "time": str, "who": str},
        ("name", "stage", "manifest", "key"),
    ),
    "history": (
        {
            "id": int, "name": str, "stage": str, "manifest": str, "since": str, "until": str,
            "who": str, "note": str, "writer": str, "seq": int,
        },
        ("id",),
    ),
}  # fmt: skip

_INDEXES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("artifacts", ("manifest",), True),
    ("artifacts", ("name", "version"), True),
    ("artifacts", ("deleted", "hidden", "id"), False),
    ("artifacts", ("type", "deleted", "hidden", "id"), False),
    ("artifacts", ("name", "id"), False),
    ("edges", ("parent",), False),
    ("metrics", ("name", "value", "artifact"), False),
    ("stages", ("stage",), False),
    ("stages", ("manifest",), False),
    ("tags", ("tag",), False),
    ("tags", ("manifest",), False),
    ("events", ("clock", "writer", "seq"), True),
    ("events", ("name", "clock"), False),
    ("events", ("manifest",), False),
    ("events", ("digest",), False),
    ("history", ("name", "stage"), False),
)


class Index:
    """The derived database and the one way to bring it up to date."""

    def __init__(self, layout: Layout, manifests: fold.Manifests) -> None:
        self._layout = layout
        self._manifests = manifests

    @property
    def path(self) -> Path:
        return self._layout.index

    def connect(self) -> sqlite3.Connection:
        """A connection for reading or writing (rows by name)."""
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("pragma synchronous=normal")
        db.execute("pragma cache_size=-16000")
        return db

    def usable(self) -> bool:
        """True when there is an index of this schema."""
        if not self.path.exists():
            return False
        try:
            db = self.connect()
            try:
                row = db.execute("select value from meta where key='schema'").fetchone()
            finally:
                db.close()
        except sqlite3.DatabaseError:
            return False
        return row is not None and row[0] == SCHEMA

    def create(self) -> None:
        """Make an empty index, in place of a damaged or older one. Under the registry's lock."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        make_tables(self.path)

    def stale(self, db: sqlite3.Connection, trust: Trust) -> bool:
        """True when the log or the root moved on. Two stat calls a writer, nothing is read.

        Raises:
            IntegrityError: events that were there are gone.
        """
        if _meta(db, "root") != _root_mark(trust):
            return True
        heads = read_heads(db)
        present = set(writers(self._layout))
        for writer, head in heads.items():
            if writer not in present or not self._layout.event(writer, head.seq).exists():
                raise IntegrityError(
                    f"the log of the writer {writer} lost events",
                    why=f"event {head.seq} was here and is gone",
                    hint="restore log/ from a backup or pull it: modelops-tui models fsck",
                )
        return (bool(present - set(heads)) and any(
            self._layout.event(w, 1).exists() for w in present - set(heads)
        )) or any(self._layout.event(w, h.seq + 1).exists() for w, h in heads.items())  # fmt: skip

    def catch_up(self, db: sqlite3.Connection, trust: Trust) -> int:
        """Read what the log has and the index has not; one transaction. Under the lock.

        Returns:
            How many events were new.
        """
        heads = read_heads(db)
        new: list[SignedEvent] = []
        for writer in writers(self._layout):
            new += read_log(self._layout, trust, writer, heads.get(writer, EMPTY))
        refold = _meta(db, "root") not in ("", _root_mark(trust))
        self.add(db, trust, new, refold=refold)
        return len(new)

    def add(
        self, db: sqlite3.Connection, trust: Trust, new: Iterable[SignedEvent], *, refold: bool
    ) -> None:
        """Add checked events; folds all anew where they do not come last in the order."""
        ordered = sorted(new, key=lambda signed: signed.order)
        db.execute("begin immediate")
        try:
            last = db.execute(
                "select clock, writer, seq from events order by clock desc, writer desc, seq desc"
            ).fetchone()
            for signed in ordered:
                _insert_event(db, signed)
            if refold or (ordered and last is not None and ordered[0].order < tuple(last)):
                self._fold_all(db, trust)
            else:
                for signed in ordered:
                    self._apply(db, signed, trust)
            db.execute("insert or replace into meta values ('root', ?)", (_root_mark(trust),))
            db.execute("commit")
        except BaseException:
            if db.in_transaction:  # a full disk has rolled it back already
                db.execute("rollback")
            raise

    def refold(self, db: sqlite3.Connection, trust: Trust) -> None:
        """Fold all known events anew (a manifest arrived late)."""
        self.add(db, trust, (), refold=True)

    def _apply(self, db: sqlite3.Connection, signed: SignedEvent, trust: Trust) -> None:
        verdict = fold.apply(db, signed, trust, self._manifests)
        if verdict != "ok":
            db.execute(
                "update events set verdict=? where writer=? and seq=?",
                (verdict, signed.event.writer, signed.event.seq),
            )

    def _fold_all(self, db: sqlite3.Connection, trust: Trust) -> None:
        for table in fold.STATE_TABLES:
            db.execute(f"delete from {table}")
        db.execute("update events set verdict='ok'")
        for row in db.execute(
            "select * from events order by clock, writer, seq"
        ).fetchall():  # fmt: skip
            self._apply(db, stored_event(row, trust), trust)

    def heads(self, db: sqlite3.Connection) -> dict[str, Head]:
        """The end of every writer's log, as the index knows it."""
        return read_heads(db)


def stored_event(row: sqlite3.Row, trust: Trust) -> SignedEvent:
    """An event as it was checked when it came in; revocations since then count."""
    event = validate(Event, json.loads(row["event"]), "a stored event")
    author = str(row["author"])
    if trust.believed(author, event):
        signers = {key for key in json.loads(row["signers"]) if trust.believed(key, event)}
    else:
        signers = set()
    return SignedEvent(event, row["digest"], author, frozenset(signers))


def make_tables(path: Path) -> None:
    """Create every table, index and the full-text table in a new database."""
    # 0.1-0.5 s of CPU to import, so only when an index is made
    from sqlite_utils import Database

    raw = sqlite3.connect(path, isolation_level=None)
    try:
        raw.execute("pragma journal_mode=wal")
        raw.execute("pragma synchronous=normal")
        db = Database(raw)
        for name, (columns, key) in _TABLES.items():
            db[name].create(columns, pk=key if len(key) > 1 else key[0])
        for table, columns_, unique in _INDEXES:
            db[table].create_index(columns_, unique=unique)
        raw.execute(
            "create virtual table artifacts_fts using fts5(name, tags, license, card, "
            "tokenize=\"unicode61 tokenchars '_'\", prefix='2 3')"
        )
        raw.execute("insert into meta values ('schema', ?), ('root', '')", (SCHEMA,))
    finally:
        raw.close()


def read_heads(db: sqlite3.Connection) -> dict[str, Head]:
    """Writer -> the last event the index has of it."""
    return {
        row["writer"]: Head(row["seq"], row["digest"], row["author"])
        for row in db.execute("select writer, seq, digest, author from heads")
    }


def _insert_event(db: sqlite3.Connection, signed: SignedEvent) -> None:
    event, body = signed.event, signed.event.body
    heads = db.execute("select * from heads where writer=?", (event.writer,)).fetchone()
    before = Head(heads["seq"], heads["digest"], heads["author"]) if heads else EMPTY
    what = f"event {event.writer}/{event.seq}"
    after = check_link(signed, before, event.writer, what)
    db.execute(
        "insert into events values (?,?,?,?,?,?,?,?,?,?,?,?,?,'ok')",
        (
            event.writer, event.seq, event.clock, signed.digest, signed.author,
            json.dumps(sorted(signed.signers)), event.time, event.who, body.type,
            getattr(body, "name", ""), getattr(body, "stage", ""),
            getattr(body, "manifest", None) or "", event_json(signed),
        ),
    )  # fmt: skip
    db.execute(
        "insert or replace into heads values (?,?,?,?)",
        (event.writer, after.seq, after.digest, after.author),
    )


def _meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("select value from meta where key=?", (key,)).fetchone()
    return str(row[0]) if row else ""


def _root_mark(trust: Trust) -> str:
    return f"{trust.fingerprint[:16]}.{trust.current.version}"


def dump(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, in a stable order: what "the same state" means."""
    tables: dict[str, list[tuple[object, ...]]] = {}
    for name, (columns, _) in _TABLES.items():
        wanted = [column for column in columns if column != "id"]
        rows = db.execute(f"select {', '.join(wanted)} from {name}").fetchall()
        tables[name] = sorted((tuple(row) for row in rows), key=repr)
    tables["fts"] = sorted(
        (tuple(r) for r in db.execute("select name, tags, license, card from artifacts_fts")),
        key=repr,
    )
    return tables
