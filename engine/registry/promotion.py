"""Stages, their gates, approvals; tags, yanks and deletions: every change a signed event."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Conflict, NotFound, Refused
from engine.registry import licenses
from engine.registry.documents import Approve, Demote, Promote, TagChange, Tombstone, Yank
from engine.registry.keys import SigningPair, release_keys
from engine.registry.names import check_tag
from engine.types.artifacts import GateResult, StageView

if TYPE_CHECKING:
    import sqlite3

    from engine.paths import StatePaths
    from engine.registry.store import Store

_BOUND = re.compile(r"^\s*(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*$")
_TESTS = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
}


@dataclass(frozen=True)
class Gates:
    """The conditions of one stage: ``[registry.gates.<stage>]`` in ``config.toml``.

    Metrics count from the artifact's own signed manifest, or from a signed report that evaluated it
    (an artifact of type report whose parent it is).
    """

    metrics: tuple[tuple[str, str], ...] = ()
    """``metric name -> bound`` such as ``("perplexity", "<= 12")``."""
    licenses: tuple[str, ...] = ()
    """The only licences that may pass; empty: any."""
    require_license: bool = False
    after: str | None = None
    """The version must hold (or have held) this stage first."""

    @classmethod
    def load(cls, paths: StatePaths, stage: str) -> Gates:
        """The gates of a stage.

        Raises:
            BadInput: the settings are not valid.
        """
        try:
            data = tomllib.loads(paths.config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{paths.config} can't be read", why=str(error)) from error
        table = data.get("registry", {}).get("gates", {}).get(stage, {})
        return cls._from_table(table, f"registry.gates.{stage}")

    @classmethod
    def _from_table(cls, table: Any, where: str) -> Gates:
        known = {"metrics", "licenses", "require_license", "after"}
        if not isinstance(table, dict) or set(table) - known:
            odd = sorted(set(table) - known) if isinstance(table, dict) else [repr(table)]
            raise BadInput(
                f"the settings of [{where}] are not valid",
                why=f"unknown: {', '.join(odd)}; known: {', '.join(sorted(known))}",
            )
        metrics = table.get("metrics", {})
        for name, bound in metrics.items():
            if not isinstance(bound, str) or not _BOUND.match(bound):
                raise BadInput(
                    f"the gate {where}.metrics.{name} is not valid",
                    why=f'{bound!r} is no bound such as "<= 12"',
                )
        return cls(
            tuple(metrics.items()),
            tuple(licenses.normalise(item) for item in table.get("licenses", ())),
            bool(table.get("require_license", False)),
            table.get("after"),
        )

    def in_words(self) -> tuple[str, ...]:
        """The conditions as short texts."""
        found = [f"{name} {bound}" for name, bound in self.metrics]
        if self.licenses:
            found.append(f"licence one of {', '.join(self.licenses)}")
        elif self.require_license:
            found.append("a licence")
        if self.after:
            found.append(f"{self.after} first")
        return tuple(found)


def stages(store: Store) -> tuple[StageView, ...]:
    """The stages of the trust root with their gates."""
    db = store.db()
    held = dict(db.execute("select stage, count(*) from stages group by stage").fetchall())
    return tuple(
        StageView(
            rule.name,
            rule.role,
            rule.threshold,
            Gates.load(store.paths, rule.name).in_words(),
            held.get(rule.name, 0),
        )
        for rule in store.trust.current.stages
    )


def gates(
    store: Store, row: sqlite3.Row, stage: str, cosigners: Sequence[SigningPair] = ()
) -> tuple[GateResult, ...]:
    """Every condition for putting an artifact into a stage, met or not.

    Raises:
        NotFound: there is no such stage.
    """
    rule = store.trust.stage(stage)
    if rule is None:
        raise NotFound(
            f"there is no stage {stage!r}",
            why=f"stages: {', '.join(r.name for r in store.trust.current.stages)}",
        )
    manifest, _ = store.read_manifest(row["manifest"])
    wanted = Gates.load(store.paths, stage)
    results = [_usable(store, row)]
    clean = not manifest.scan.pickles
    if rule.role == "release" or not clean:
        results.append(
            GateResult(
                "scan",
                clean or rule.role != "release",
                "no pickles" if clean else f"pickles: {', '.join(manifest.scan.pickles[:3])}",
            )
        )
    results += [_metric(store, row, name, bound) for name, bound in wanted.metrics]
    if wanted.licenses or wanted.require_license:
        results.append(_license(manifest.license, wanted))
    if wanted.after:
        results.append(_after(store.db(), row, wanted.after))
    results.append(_signatures(store, row, stage, cosigners))
    return tuple(results)


def _usable(store: Store, row: sqlite3.Row) -> GateResult:
    if row["deleted"] or row["yanked"]:
        return GateResult("usable", False, f"it is yanked or deleted: {row['reason']}")
    manifest, _ = store.read_manifest(row["manifest"])
    missing = [f.path for f in manifest.files if not store.blobs.has(f.sha256, f.size)]
    if missing:
        return GateResult(
            "complete", False, f"{len(missing)} of its files are not here: pull it whole"
        )
    # a stage is a promise about bytes: what `models verify` refuses is never promoted
    from engine.registry.materialize import verify

    report = verify(store, row, deep=False)
    if not report.ok:
        return GateResult("verified", False, "; ".join(report.problems[:3]))
    return GateResult("verified", True, f"{report.files} files here, signature and bytes right")


def _metric(store: Store, row: sqlite3.Row, name: str, bound: str) -> GateResult:
    match = _BOUND.match(bound)
    assert match is not None  # Gates.load checked it
    found = (
        store.db()
        .execute(
            "select value from metrics where manifest=? and name=? union all "
            "select m.value from edges e join artifacts a on a.manifest=e.child and a.deleted=0 "
            "join metrics m on m.manifest=e.child where e.parent=? and m.name=? "
            "and a.type='report' limit 1",
            (row["manifest"], name, row["manifest"], name),
        )
        .fetchone()
    )
    if found is None:
        return GateResult(name, False, f"{name} {bound}: no signed evaluation has it")
    ok = _TESTS[match[1]](found[0], float(match[2]))
    return GateResult(name, ok, f"{name} {bound}: it is {found[0]:g}")


def _license(license_: str | None, wanted: Gates) -> GateResult:
    if license_ is None:
        return GateResult("licence", False, "it has no licence")
    odd = [p for p in licenses.parts(license_) if wanted.licenses and p not in wanted.licenses]
    text = f"{license_}: not allowed here" if odd else license_
    return GateResult("licence", not odd, text)


def _after(db: sqlite3.Connection, row: sqlite3.Row, stage: str) -> GateResult:
    held = db.execute(
        "select 1 from history where name=? and stage=? and manifest=?",
        (row["name"], stage, row["manifest"]),
    ).fetchone()
    return GateResult(f"after {stage}", held is not None, f"it {'was' if held else 'never was'} in {stage}")  # fmt: skip  # noqa: E501


def _signatures(
    store: Store, row: sqlite3.Row, stage: str, cosigners: Sequence[SigningPair]
) -> GateResult:
    rule = store.trust.stage(stage)
    assert rule is not None  # the caller looked
    keys = {store.device.id, *(key.id for key in cosigners)}
    keys |= {
        r[0]
        for r in store.db().execute(
            "select key from approvals where name=? and stage=? and manifest=?",
            (row["name"], stage, row["manifest"]),
        )
    }
    revoked = store.trust.current.revoked
    agreed = {k for k in keys if store.trust.has_role(k, rule.role) and k not in revoked}
    missing = max(0, rule.threshold - len(agreed))
    return GateResult(
        "signatures",
        not missing,
        f"{len(agreed)} of {rule.threshold} {rule.role} key(s) agree",
        needs_passphrase=missing > 0 and rule.role == "release",
        missing=missing if rule.role == "release" else 0,
    )


def promote(
    store: Store,
    row: sqlite3.Row,
    stage: str,
    *,
    note: str = "",
    cosigners: Sequence[SigningPair] = (),
) -> None:
    """Move a stage of the artifact's name to this version.

    Raises:
        NotFound: no such stage.
        Refused: a gate is not met; each is named.
    """
    check_tag(stage, "stage")
    with store.locked():
        db = store.db()
        held = db.execute(
            "select manifest from stages where name=? and stage=?", (row["name"], stage)
        ).fetchone()
        before = held[0] if held else None
        if before == row["manifest"]:
            return
        failed = [g for g in gates(store, row, stage, cosigners) if not g.ok]
        if failed:
            raise _refused(store, row, stage, failed)
        signed = store.commit(
            Promote(
                name=row["name"], stage=stage, manifest=row["manifest"], before=before, note=note
            ),
            cosigners,
        )
        verdict = store.verdict(signed)
        if verdict != "ok":
            raise Conflict(f"{row['name']} could not be promoted to {stage}", why=verdict)


def _refused(store: Store, row: sqlite3.Row, stage: str, failed: list[GateResult]) -> Refused:
    if any(gate.needs_passphrase for gate in failed) and release_keys(store.layout.keys):
        hint = (
            "promote asks for the passphrase (or --passphrase-fd); where several keys must agree, "
            "each but the last with `modelops-tui models approve`"
        )
    elif any(gate.needs_passphrase for gate in failed):
        hint = (
            "make a release key once (modelops-tui keys create-release), then promote again: "
            "it asks for the passphrase"
        )
    else:
        hint = "`modelops-tui models gates NAME@VERSION STAGE` shows all conditions"
    return Refused(
        f"{row['name']}@{row['version']} may not enter {stage}",
        why="; ".join(gate.text for gate in failed),
        hint=hint,
    )


def demote(
    store: Store,
    name: str,
    stage: str,
    *,
    note: str = "",
    cosigners: Sequence[SigningPair] = (),
) -> None:
    """Empty a stage of a name: one key of the stage's role must agree.

    Raises:
        NotFound: it holds nothing.
        Refused: neither this device's key nor a cosigner's has the stage's role.
    """
    with store.locked():
        held = (
            store.db()
            .execute("select manifest from stages where name=? and stage=?", (name, stage))
            .fetchone()
        )
        if held is None:
            raise NotFound(f"{name} has nothing in {stage}")
        rule = store.trust.stage(stage)
        if rule is not None and demotion_needs_passphrase(store, stage):
            agreed = {key.id for key in cosigners} - set(store.trust.current.revoked)
            if not any(store.trust.has_role(key, rule.role) for key in agreed):
                raise Refused(
                    f"{stage} of {name} may not be emptied by this machine alone",
                    why=f"that takes a {rule.role} key",
                    hint="its passphrase is asked for at a terminal, or given by --passphrase-fd",
                )
        signed = store.commit(Demote(name=name, stage=stage, before=held[0], note=note), cosigners)
        verdict = store.verdict(signed)
        if verdict != "ok":
            raise Conflict(f"{stage} of {name} could not be emptied", why=verdict)


def demotion_needs_passphrase(store: Store, stage: str) -> bool:
    """True when this device's own key does not suffice to empty a stage."""
    rule = store.trust.stage(stage)
    return rule is not None and not store.trust.has_role(store.device.id, rule.role)


def approve(store: Store, row: sqlite3.Row, stage: str, key: SigningPair, *, note: str = "") -> int:
    """Agree, with a key of the stage's role, that a version may enter the stage.

    Returns:
        How many distinct keys agree now.

    Raises:
        NotFound: no such stage.
        Refused: the key has not the stage's role.
    """
    rule = store.trust.stage(stage)
    if rule is None:
        raise NotFound(f"there is no stage {stage!r}")
    if not store.trust.has_role(key.id, rule.role) or key.id in store.trust.current.revoked:
        raise Refused(
            f"the key {key.id[:16]} can't approve for {stage}",
            why=f"it is no {rule.role} key of the trust root, or it is revoked",
        )
    with store.locked():
        store.commit(
            Approve(name=row["name"], stage=stage, manifest=row["manifest"], note=note), [key]
        )
        count = store.db().execute(
            "select count(*) from approvals where name=? and stage=? and manifest=?",
            (row["name"], stage, row["manifest"]),
        )  # fmt: skip
        return int(count.fetchone()[0])


def tag(store: Store, row: sqlite3.Row, name: str, *, remove: bool = False) -> None:
    """Put a tag of the artifact's name on this version, or take it away."""
    check_tag(name)
    if store.trust.stage(name) is not None or name == "latest":
        raise BadInput(f"{name!r} can't be a tag", why="it is the name of a stage")
    with store.locked():
        store.commit(TagChange(name=row["name"], tag=name, manifest=None if remove else row["manifest"]))  # fmt: skip  # noqa: E501


def yank(store: Store, row: sqlite3.Row, reason: str, *, undo: bool = False) -> None:
    """Advise against a version: names pass over it, exact references still find it."""
    with store.locked():
        store.commit(Yank(manifest=row["manifest"], yanked=not undo, reason=reason))


def delete(store: Store, row: sqlite3.Row, reason: str) -> None:
    """Delete a version; ``gc`` frees its bytes later.

    Raises:
        Conflict: it holds a stage, or another artifact was made from it.
    """
    with store.locked():
        db = store.db()
        held = db.execute(
            "select stage from stages where manifest=?", (row["manifest"],)
        ).fetchone()
        if held:
            raise Conflict(
                f"{row['name']}@{row['version']} holds the stage {held[0]}",
                hint=f"modelops-tui models demote {row['name']} {held[0]}",
            )
        child = db.execute(
            "select a.name, a.version from edges e join artifacts a on a.manifest=e.child "
            "where e.parent=? and e.rel='base' and a.deleted=0 limit 1",
            (row["manifest"],),
        ).fetchone()
        if child:
            raise Conflict(
                f"{row['name']}@{row['version']} is the base of {child[0]}@{child[1]}",
                why="that one can't be loaded without it",
                hint="delete that one first",
            )
        store.commit(Tombstone(manifest=row["manifest"], reason=reason))
