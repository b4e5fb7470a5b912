"""The fold: events in their total order become the registry's state, in tables.

One implementation serves the running index and every rebuild. An event that is not authorised, or
that contradicts what was there, is recorded with its verdict and changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from engine.registry.documents import (
    Approve,
    Demote,
    Event,
    Manifest,
    Promote,
    Publish,
    TagChange,
    Tombstone,
    Yank,
    epoch,
)
from engine.registry.log import SignedEvent
from engine.registry.trust import Trust

Manifests = Callable[[str], Manifest | None]

STATE_TABLES = (
    "artifacts", "edges", "metrics", "labels", "stages", "tags", "keys", "approvals", "history",
    "artifacts_fts",
)  # fmt: skip


def apply(db: sqlite3.Connection, signed: SignedEvent, trust: Trust, manifests: Manifests) -> str:
    """Apply one event.

    Args:
        db: the index, inside a transaction.
        signed: the event, its signatures checked.
        trust: the roots.
        manifests: finds a verified manifest by id; None where it is not here.

    Returns:
        The verdict: ``ok``, ``conflict: why`` or ``refused: why``.
    """
    if not signed.signers:
        return "refused: its key was revoked"
    body = signed.event.body
    if isinstance(body, Publish):
        return _publish(db, signed, body, manifests)
    if isinstance(body, Promote):
        return _promote(db, signed, body, trust)
    if isinstance(body, Demote):
        return _demote(db, signed, body, trust)
    if isinstance(body, Approve):
        return _approve(db, signed, body, trust)
    if isinstance(body, TagChange):
        return _tag(db, body)
    if isinstance(body, Yank):
        return _yank(db, body)
    if isinstance(body, Tombstone):
        return _tombstone(db, body)
    return "ok"


def _publish(
    db: sqlite3.Connection, signed: SignedEvent, body: Publish, manifests: Manifests
) -> str:
    if body.key is not None:
        known = db.execute("select manifest from keys where key=?", (body.key,)).fetchone()
        if known and known[0] != body.manifest:
            return f"conflict: the key {body.key} already has {known[0][:19]}"
    if db.execute("select 1 from artifacts where manifest=?", (body.manifest,)).fetchone():
        return "ok"
    manifest = manifests(body.manifest)
    if manifest is not None and (manifest.name, manifest.version) != (body.name, body.version):
        return "refused: it names another artifact than its manifest does"
    version, verdict = body.version, "ok"
    if _version_taken(db, body.name, version):
        version = f"{version}+{body.manifest[7:13]}"
        verdict = f"conflict: {body.name} has a version {body.version}; this one is {version}"
    event = signed.event
    number = db.execute(
        "insert into artifacts (manifest, name, version, type, created, size, files, license, "
        "tags, metrics, run, parents, signed_by, writer, seq, key, hidden, yanked, reason, "
        "deleted, pickles, missing) values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,'',0,?,?)",
        (
            body.manifest,
            body.name,
            version,
            *_facts(manifest, event),
            signed.author,
            event.writer,
            event.seq,
            body.key,
            body.hidden,
            bool(manifest and manifest.scan.pickles),
            manifest is None,
        ),
    ).lastrowid
    if body.key is not None:
        db.execute("insert into keys values (?,?)", (body.key, body.manifest))
    if manifest is not None:
        _details(db, number, body.manifest, manifest, version)
    return verdict


def _version_taken(db: sqlite3.Connection, name: str, version: str) -> bool:
    row = db.execute("select 1 from artifacts where name=? and version=?", (name, version))
    return row.fetchone() is not None


def _facts(manifest: Manifest | None, event: Event) -> tuple[object, ...]:
    if manifest is None:
        return ("", epoch(event.time), 0, 0, None, "[]", "{}", "{}", "[]")
    return (
        manifest.type,
        epoch(manifest.created),
        manifest.size_bytes,
        len(manifest.files),
        manifest.license,
        json.dumps(manifest.tags),
        json.dumps(manifest.metrics),
        json.dumps(manifest.run, ensure_ascii=False),
        json.dumps([[p.rel, p.manifest] for p in manifest.parents]),
    )


def _details(
    db: sqlite3.Connection, number: int | None, identity: str, manifest: Manifest, version: str
) -> None:
    db.executemany(
        "insert or ignore into edges values (?,?,?)",
        [(identity, parent.manifest, parent.rel) for parent in manifest.parents],
    )
    db.executemany(
        "insert or replace into metrics values (?,?,?,?)",
        [(identity, key, float(value), number) for key, value in manifest.metrics.items()],
    )
    db.executemany(
        "insert or ignore into labels values (?,?)", [(tag, number) for tag in manifest.tags]
    )
    db.execute(
        "insert into artifacts_fts (rowid, name, tags, license, card) values (?,?,?,?,?)",
        (
            number,
            f"{manifest.name} {version}",
            " ".join(manifest.tags),
            manifest.license or "",
            manifest.card[:20_000],
        ),
    )


def _alive(db: sqlite3.Connection, name: str, manifest: str) -> str:
    row = db.execute(
        "select name, deleted, pickles, missing from artifacts where manifest=?", (manifest,)
    ).fetchone()
    if row is None:
        return "refused: no such artifact was published"
    if row[0] != name:
        return f"refused: that artifact is called {row[0]}"
    if row[1]:
        return "refused: that artifact is deleted"
    return ""


def _held(db: sqlite3.Connection, name: str, stage: str) -> str | None:
    row = db.execute(
        "select manifest from stages where name=? and stage=?", (name, stage)
    ).fetchone()
    return row[0] if row else None


def authorised(db: sqlite3.Connection, signed: SignedEvent, body: Promote, trust: Trust) -> str:
    """Why the keys behind a promotion do not suffice; empty when they do.

    Counted are distinct, believed keys of the stage's role: those that signed the promotion itself
    and those that approved this very manifest for this stage before it.
    """
    version = signed.event.root
    rule = trust.stage(body.stage, version)
    if rule is None:
        return f"the trust root {version} knows no stage {body.stage}"
    agreed = {key for key in signed.signers if trust.has_role(key, rule.role, version)}
    for (key,) in db.execute(
        "select key from approvals where name=? and stage=? and manifest=?",
        (body.name, body.stage, body.manifest),
    ):
        if trust.has_role(key, rule.role, version):
            agreed.add(key)
    if len(agreed) < rule.threshold:
        return f"{body.stage} needs {rule.threshold} {rule.role} key(s), {len(agreed)} agreed"
    return ""


def _promote(db: sqlite3.Connection, signed: SignedEvent, body: Promote, trust: Trust) -> str:
    reason = _alive(db, body.name, body.manifest)
    if reason:
        return reason
    reason = authorised(db, signed, body, trust)
    if reason:
        return f"refused: {reason}"
    pickles = db.execute(
        "select pickles from artifacts where manifest=?", (body.manifest,)
    ).fetchone()[0]
    rule = trust.stage(body.stage, signed.event.root)
    if pickles and rule is not None and rule.role == "release":
        return f"refused: it holds pickles, which never reach {body.stage}"
    held = _held(db, body.name, body.stage)
    if held != body.before:
        return f"conflict: {body.stage} held {held or 'nothing'}, not {body.before or 'nothing'}"
    _close(db, body.name, body.stage, signed.event.time)
    event = signed.event
    db.execute(
        "insert or replace into stages values (?,?,?,?,?,?)",
        (body.name, body.stage, body.manifest, event.time, event.writer, event.seq),
    )
    db.execute(
        "insert into history (name, stage, manifest, since, until, who, note, writer, seq) "
        "values (?,?,?,?,null,?,?,?,?)",
        (body.name, body.stage, body.manifest, event.time, event.who, body.note, event.writer,
         event.seq),
    )  # fmt: skip
    return "ok"


def _close(db: sqlite3.Connection, name: str, stage: str, time: str) -> None:
    db.execute(
        "update history set until=? where name=? and stage=? and until is null",
        (time, name, stage),
    )


def _demote(db: sqlite3.Connection, signed: SignedEvent, body: Demote, trust: Trust) -> str:
    rule = trust.stage(body.stage, signed.event.root)
    if rule is None:
        return f"refused: there is no stage {body.stage}"
    # the safe direction takes one key of the role, not the threshold; but not just any device
    if not any(trust.has_role(key, rule.role, signed.event.root) for key in signed.signers):
        return f"refused: emptying {body.stage} takes a {rule.role} key"
    if _held(db, body.name, body.stage) != body.before:
        return f"conflict: {body.stage} does not hold it"
    _close(db, body.name, body.stage, signed.event.time)
    db.execute("delete from stages where name=? and stage=?", (body.name, body.stage))
    return "ok"


def _approve(db: sqlite3.Connection, signed: SignedEvent, body: Approve, trust: Trust) -> str:
    rule = trust.stage(body.stage, signed.event.root)
    if rule is None:
        return f"refused: there is no stage {body.stage}"
    keys = [k for k in sorted(signed.signers) if trust.has_role(k, rule.role, signed.event.root)]
    if not keys:
        return f"refused: no {rule.role} key signed it"
    db.executemany(
        "insert or ignore into approvals values (?,?,?,?,?,?)",
        [
            (body.name, body.stage, body.manifest, key, signed.event.time, signed.event.who)
            for key in keys
        ],
    )
    return "ok"


def _tag(db: sqlite3.Connection, body: TagChange) -> str:
    if body.manifest is None:
        db.execute("delete from tags where name=? and tag=?", (body.name, body.tag))
        return "ok"
    reason = _alive(db, body.name, body.manifest)
    if reason:
        return reason
    db.execute("insert or replace into tags values (?,?,?)", (body.name, body.tag, body.manifest))
    return "ok"


def _yank(db: sqlite3.Connection, body: Yank) -> str:
    changed = db.execute(
        "update artifacts set yanked=?, reason=? where manifest=?",
        (body.yanked, body.reason if body.yanked else "", body.manifest),
    ).rowcount
    return "ok" if changed else "refused: no such artifact was published"


def _tombstone(db: sqlite3.Connection, body: Tombstone) -> str:
    held = db.execute("select stage from stages where manifest=?", (body.manifest,)).fetchone()
    if held:
        return f"conflict: it holds the stage {held[0]}"
    changed = db.execute(
        "update artifacts set deleted=1, reason=? where manifest=?", (body.reason, body.manifest)
    ).rowcount
    if not changed:
        return "refused: no such artifact was published"
    db.execute("delete from tags where manifest=?", (body.manifest,))
    db.execute("delete from keys where manifest=?", (body.manifest,))
    return "ok"
