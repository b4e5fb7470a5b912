"""Reading the index: references, lists, search, lineage, history. Plain sqlite3, no writes."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from typing import Any

from engine.errors import BadInput, Conflict, NotFound
from engine.types.artifacts import ArtifactView, EventView, LineageNode, StageChange

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
_METRIC = re.compile(r"^([\w.-]+)\s*(<=|>=|<|>|=)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")


def find(db: sqlite3.Connection, ref: str) -> sqlite3.Row:
    """The artifact that ``ref`` names, as a row of the index.

    Raises:
        NotFound: nothing of that name, stage, tag or version.
        Conflict: a prefix that several artifacts share.
    """
    ref = ref.strip()
    name, at, which = ref.partition("@")
    row = None
    if at:
        row = _at(db, name, which)
    else:
        row = db.execute(
            "select * from artifacts where name=? and deleted=0 and yanked=0 "
            "order by id desc limit 1",
            (ref,),
        ).fetchone()
        match = _PREFIX.fullmatch(ref)
        if row is None and match:
            row = _by_prefix(db, match[1])
    if row is None:
        raise _missing(db, ref, name, which)
    found: sqlite3.Row = row
    return found


def _at(db: sqlite3.Connection, name: str, which: str) -> sqlite3.Row | None:
    """By stage, then tag, then version; ``v3`` is version 3; ``latest`` the newest."""
    if which == "latest":
        row: sqlite3.Row | None = db.execute(
            "select * from artifacts where name=? and deleted=0 and yanked=0 "
            "order by id desc limit 1",
            (name,),
        ).fetchone()
        return row
    for table, column in (("stages", "stage"), ("tags", "tag")):
        row = db.execute(
            f"select a.* from {table} t join artifacts a on a.manifest=t.manifest "
            f"where t.name=? and t.{column}=?",
            (name, which),
        ).fetchone()
        if row is not None:
            return row
    for version in (which, which[1:] if re.fullmatch(r"v\d+", which) else which):
        row = db.execute(
            "select * from artifacts where name=? and version=? and deleted=0", (name, version)
        ).fetchone()
        if row is not None:
            return row
    return None


def _by_prefix(db: sqlite3.Connection, digits: str) -> sqlite3.Row | None:
    rows = db.execute(
        "select * from artifacts where manifest >= ? and manifest < ? limit 2",
        (f"sha256:{digits}", f"sha256:{digits}g"),
    ).fetchall()
    if len(rows) > 1:
        raise Conflict(f"{digits} is the beginning of several ids", hint="give more digits")
    return rows[0] if rows else None


def _missing(db: sqlite3.Connection, ref: str, name: str, which: str) -> NotFound:
    import difflib

    if which:
        versions = [
            row[0]
            for row in db.execute(
                "select version from artifacts where name=? and deleted=0 order by id desc limit 5",
                (name,),
            )
        ]
        if versions:
            stages = [r[0] for r in db.execute("select stage from stages where name=?", (name,))]
            return NotFound(
                f"{name} has no version, stage or tag {which!r}",
                why=f"versions: {', '.join(versions)}; stages: {', '.join(stages) or 'none'}",
            )
    elif yanked := [
        row[0]
        for row in db.execute(
            "select version from artifacts where name=? and yanked=1 and deleted=0 order by id",
            (name,),
        )
    ]:
        return NotFound(
            f"every version of {name} is yanked",
            hint=f"name the version: {' or '.join(f'{name}@{v}' for v in yanked[-3:])}",
        )
    names = [r[0] for r in db.execute("select distinct name from artifacts where deleted=0")]
    near = difflib.get_close_matches(name, names, n=3)
    return NotFound(
        f"there is no artifact {ref!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else "modelops-tui models list",
    )


def views(db: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> tuple[ArtifactView, ...]:
    """Rows of the index as the callers see them, with their stages and tags."""
    rows = list(rows)
    stages: dict[str, list[str]] = {}
    tags: dict[str, list[str]] = {}
    for start in range(0, len(rows), 500):
        ids = [row["manifest"] for row in rows[start : start + 500]]
        marks = ",".join("?" * len(ids))
        for manifest, stage in db.execute(
            f"select manifest, stage from stages where manifest in ({marks}) order by stage", ids
        ):
            stages.setdefault(manifest, []).append(stage)
        for manifest, tag in db.execute(
            f"select manifest, tag from tags where manifest in ({marks}) order by tag", ids
        ):
            tags.setdefault(manifest, []).append(tag)
    return tuple(_view(row, stages, tags) for row in rows)


def _view(
    row: sqlite3.Row, stages: dict[str, list[str]], tags: dict[str, list[str]]
) -> ArtifactView:
    manifest = row["manifest"]
    own = json.loads(row["tags"])
    return ArtifactView(
        manifest=manifest,
        name=row["name"],
        version=row["version"],
        artifact_type=row["type"],
        created=row["created"],
        size_bytes=row["size"],
        files=row["files"],
        stages=tuple(stages.get(manifest, ())),
        tags=tuple(dict.fromkeys([*own, *tags.get(manifest, ())])),
        license=row["license"],
        metrics={k: float(v) for k, v in json.loads(row["metrics"]).items()},
        parents=tuple((rel, parent) for rel, parent in json.loads(row["parents"])),
        run=json.loads(row["run"]),
        signed_by=row["signed_by"],
        writer=row["writer"],
        hidden=bool(row["hidden"]),
        yanked=bool(row["yanked"]),
        yank_reason=row["reason"] if row["yanked"] else "",
        partial=bool(row["missing"]),
        pickles=bool(row["pickles"]),
    )


def select(
    db: sqlite3.Connection,
    *,
    artifact_type: str | None = None,
    stage: str | None = None,
    tag: str | None = None,
    text: str | None = None,
    metric: str | None = None,
    name: str | None = None,
    include_runs: bool = False,
    limit: int | None = None,
    before: str | None = None,
) -> tuple[ArtifactView, ...]:
    """Artifacts, newest first (in the order of the log).

    Args:
        db: the index.
        artifact_type: only this type.
        stage: only what this stage holds.
        tag: only with this tag.
        text: words (their beginnings suffice) in name, tags, licence or card.
        metric: a bound such as ``perplexity<=12``.
        name: only this name.
        include_runs: the outputs of steps too.
        limit: at most so many.
        before: manifest id of the last one of the page before.
    """
    found = []
    if stage:
        rule = "select manifest from stages where stage=?"
        test = "select 1 from stages where stage=? and manifest=a.manifest"
        rule = f"select id from artifacts where manifest in ({rule})"
        found.append(_among(db, rule, (test,), [stage]))
    if tag:
        rule = (
            "select artifact from labels where tag=? union "
            "select id from artifacts where manifest in (select manifest from tags where tag=?)"
        )
        own = "select 1 from labels where tag=? and artifact=a.id"
        given = "select 1 from tags where tag=? and manifest=a.manifest"
        found.append(_among(db, rule, (own, given), [tag, tag]))
    if metric:
        limits, bound = _bound(metric)
        rule = f"select artifact from metrics where {limits}"
        test = f"select 1 from metrics where {limits} and manifest=a.manifest"
        found.append(_among(db, rule, (test,), bound))
    # "+": where a name or a few ids are given, those are walked, not all that is not deleted
    plain = "+" if name or any(few for _, _, few in found) else ""
    where, values = [f"{plain}a.deleted=0"], []
    source = "artifacts a"
    if not include_runs:
        where.append(f"{plain}a.hidden=0")
    if artifact_type:
        where.append(f"{plain}a.type=?")
        values.append(artifact_type)
    if name:
        where.append("a.name=?")
        values.append(name)
    for condition, arguments, _ in found:
        where.append(condition)
        values += arguments
    if text and text.strip():
        # the full-text index walks backwards by rowid, which is the order of the log
        source = "artifacts_fts f cross join artifacts a on a.id=f.rowid"
        where.insert(0, "artifacts_fts match ?")
        values.insert(0, _match(text))
    key = "f.rowid" if source != "artifacts a" else "a.id"
    if before:
        row = db.execute("select id from artifacts where manifest=?", (before,)).fetchone()
        if row is None:
            raise NotFound(f"there is no artifact {before[:19]} to go on from")
        where.append(f"{key} < ?")
        values.append(row["id"])
    sql = f"select a.* from {source} where {' and '.join(where)} order by {key} desc limit ?"
    return views(db, db.execute(sql, (*values, -1 if limit is None else limit)))


#: Up to so many matches are walked from the newest; of more, the newest are met soon anyway.
_FEW = 4_000


def _among(
    db: sqlite3.Connection, rule: str, tests: tuple[str, ...], arguments: list[Any]
) -> tuple[str, list[Any], bool]:
    """The condition for artifacts that a rule selects, in the way that suits how many it selects.

    Args:
        db: the index.
        rule: a select of the ids of all matches.
        tests: selects that find something where ``a`` is a match: what ``rule`` says, one by one.
        arguments: of the rule, and of the tests.

    Returns:
        The condition, its arguments, and whether they are few.
    """
    count = db.execute(f"select count(*) from ({rule} limit {_FEW})", arguments).fetchone()[0]
    if count < _FEW:
        return f"a.id in ({rule})", arguments, True
    return f"({' or '.join(f'exists ({test})' for test in tests)})", arguments, False


def _match(text: str) -> str:
    words = re.findall(r"\w+", text)
    if not words:
        return '""'
    return " ".join(f'"{word}"*' for word in words[:16])


def _bound(metric: str) -> tuple[str, list[Any]]:
    match = _METRIC.match(metric.strip())
    if not match:
        raise BadInput(f"{metric!r} is no bound on a metric", hint="for example: perplexity<=12")
    return f"name=? and value {match[2]} ?", [match[1], float(match[3])]


def ancestors(db: sqlite3.Connection, manifest: str, *, limit: int = -1) -> list[str]:
    """Manifest ids of everything an artifact was made from, nearest first."""
    rows = db.execute(
        """with recursive walk(node) as (
              select parent from edges where child=?
              union
              select e.parent from walk w join edges e on e.child=w.node)
            select node from walk limit ?""",
        (manifest, limit),
    )
    return [row[0] for row in rows]


def lineage(
    db: sqlite3.Connection, manifest: str, *, up: bool, depth: int = 10_000
) -> tuple[LineageNode, ...]:
    """Ancestors (``up``) or descendants, nearest first; each artifact once."""
    here, there = ("child", "parent") if up else ("parent", "child")
    rows = db.execute(
        f"""with recursive walk(node, rel, depth, via) as (
              select {there}, rel, 1, {here} from edges where {here}=:start
              union
              select e.{there}, e.rel, w.depth + 1, e.{here} from edges e
              join walk w on e.{here}=w.node where w.depth < :depth)
            select node, rel, min(depth) as depth, via from walk
            group by node order by depth, node""",
        {"start": manifest, "depth": min(depth, 10_000)},
    ).fetchall()
    ids = [row["node"] for row in rows]
    known: dict[str, ArtifactView] = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        marks = ",".join("?" * len(part))
        found = db.execute(f"select * from artifacts where manifest in ({marks})", part)
        known |= {view.manifest: view for view in views(db, found)}
    return tuple(
        LineageNode(row["node"], row["rel"], row["depth"], known.get(row["node"]), row["via"])
        for row in rows
    )


def stage_history(
    db: sqlite3.Connection, name: str, stage: str | None = None, at: str | None = None
) -> tuple[StageChange, ...]:
    """Who held a stage from when to when, newest first.

    Args:
        db: the index.
        name: the artifact's name.
        stage: only this stage.
        at: only what was in force at this time (RFC 3339, UTC).
    """
    where, values = ["h.name=?"], [name]
    if stage:
        where.append("h.stage=?")
        values.append(stage)
    if at:
        where.append("h.since<=? and (h.until is null or h.until>?)")
        values += [at, at]
    rows = db.execute(
        "select h.*, a.version from history h left join artifacts a on a.manifest=h.manifest "
        f"where {' and '.join(where)} order by h.id desc",
        values,
    )
    return tuple(
        StageChange(
            row["name"], row["stage"], row["manifest"], row["version"] or "?", row["since"],
            row["until"], row["who"], row["note"] or "",
        )
        for row in rows
    )  # fmt: skip


def audit(
    db: sqlite3.Connection,
    *,
    name: str | None = None,
    manifest: str | None = None,
    event_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
) -> tuple[EventView, ...]:
    """The signed events, newest first; those without effect too, with the reason."""
    where, values = ["1"], []
    for column, value in (("name", name), ("manifest", manifest), ("type", event_type)):
        if value:
            where.append(f"{column}=?")
            values.append(value)
    if since:
        where.append("time>=?")
        values.append(since)
    if until:
        where.append("time<?")
        values.append(until)
    rows = db.execute(
        f"select * from events where {' and '.join(where)} "
        "order by clock desc, writer desc, seq desc limit ?",
        (*values, -1 if limit is None else limit),
    )
    return tuple(_event(row) for row in rows)


def _event(row: sqlite3.Row) -> EventView:
    body = json.loads(row["event"])["body"]
    return EventView(
        time=row["time"],
        who=row["who"],
        type=row["type"],
        text=in_words(body),
        name=row["name"],
        stage=row["stage"],
        manifest=row["manifest"],
        writer=row["writer"],
        seq=row["seq"],
        clock=row["clock"],
        key=row["author"],
        verdict=row["verdict"],
    )


def in_words(body: dict[str, object]) -> str:
    """An event's body as a sentence."""
    kind = body["type"]
    manifest = str(body.get("manifest") or "")[7:19]
    before = str(body.get("before") or "")[7:19] or "nothing"
    note = f" ({body['note']})" if body.get("note") else ""
    reason = f" ({body['reason']})" if body.get("reason") else ""
    texts = {
        "publish": f"published {body.get('name')}@{body.get('version')} as {manifest}",
        "promote": f"{body.get('name')}: {body.get('stage')} moves from {before} "
        f"to {manifest}{note}",
        "demote": f"{body.get('name')}: {body.get('stage')} is emptied of {before}{note}",
        "approve": f"approved {body.get('name')} {manifest} for {body.get('stage')}{note}",
        "tag": f"{body.get('name')}: tag {body.get('tag')} "
        + (f"on {manifest}" if manifest else "removed"),
        "yank": f"{'yanked' if body.get('yanked') else 'restored'} {manifest}{reason}",
        "tombstone": f"deleted {manifest}{reason}",
        "keys": f"the trust root is version {body.get('root')}{note}",
        "gc": f"collected {body.get('blobs')} blobs, {body.get('size_bytes')} bytes",
    }
    return texts.get(str(kind), str(kind))
