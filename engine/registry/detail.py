"""Everything about one artifact, and two of them side by side: what the screens show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import NotFound
from engine.registry import licenses, query
from engine.registry.documents import Manifest
from engine.registry.envelope import Envelope
from engine.registry.keys import fingerprint
from engine.registry.layout import digest_of
from engine.types.artifacts import (
    ArtifactDetail,
    ArtifactView,
    CompareView,
    FileView,
    SignatureView,
)

if TYPE_CHECKING:
    from engine.registry import Registry


def detail(registry: Registry, ref: str) -> ArtifactDetail:
    """The whole of an artifact."""
    row = registry.row(ref)
    db = registry.db()
    manifest, sealed = registry.read_manifest(row["manifest"])
    parents: list[tuple[str, ArtifactView | str]] = []
    licences = []
    for parent in manifest.parents:
        try:
            parents.append((parent.rel, registry.resolve(parent.manifest)))
            licences.append(registry.manifest(parent.manifest).license)
        except NotFound:
            parents.append((parent.rel, parent.manifest))
    children = tuple(
        (node.relation, node.view)
        for node in query.lineage(db, row["manifest"], up=False, depth=1)
        if node.view is not None
    )
    attest = registry.layout.attest / digest_of(row["manifest"])
    signature = attest / "model.sig"
    return ArtifactDetail(
        view=query.views(db, [row])[0],
        files=tuple(
            FileView(f.path, f.sha256, f.size, f.media_type, registry.blobs.has(f.sha256, f.size))
            for f in manifest.files
        ),
        signatures=_signatures(registry, sealed, row["seq"], row["writer"]),
        parents=tuple(parents),
        children=children,
        events=query.audit(db, manifest=row["manifest"]),
        card=manifest.card,
        license_note="; ".join(licenses.conflicts(manifest.license, licences)),
        scan=manifest.scan.verdict,
        recipe=manifest.recipe,
        sbom=str(attest / "sbom.cdx.json") if (attest / "sbom.cdx.json").exists() else None,
        model_sig=str(signature) if signature.exists() else None,
    )


def _signatures(
    registry: Registry, sealed: Envelope, seq: int, writer: str
) -> tuple[SignatureView, ...]:
    trust = registry.trust
    right = sealed.signers(trust.public_keys())
    found = []
    for key, _ in sealed.signatures:
        listed = trust.current.keys.get(key)
        revoked = trust.current.revoked.get(key)
        if listed is None:
            state = "unknown"
        elif key not in right:
            state = "invalid"
        elif revoked is not None and seq > revoked.last_good.get(writer, 0):
            state = "revoked"
        else:
            state = "valid"
        roles = [r for r in ("device", "release") if trust.has_role(key, r)]
        found.append(
            SignatureView(
                key=key,
                fingerprint=fingerprint(key),
                owner=listed.owner if listed else "",
                role=", ".join(roles) or "unknown",
                state=state,
            )
        )
    return tuple(found)


def compare(registry: Registry, left: str, right: str) -> CompareView:
    """Two artifacts: metrics, files, facts."""
    sides = [registry.resolve(left), registry.resolve(right)]
    a, b = (registry.manifest(side.manifest) for side in sides)
    names = sorted({*sides[0].metrics, *sides[1].metrics})
    return CompareView(
        left=sides[0],
        right=sides[1],
        metrics=tuple((n, sides[0].metrics.get(n), sides[1].metrics.get(n)) for n in names),
        files=_files(a, b),
        facts=(
            ("type", a.type, b.type),
            ("licence", a.license or "-", b.license or "-"),
            ("size", str(a.size_bytes), str(b.size_bytes)),
            ("recipe", a.recipe or "-", b.recipe or "-"),
            *(
                (key, a.run.get(key, "-"), b.run.get(key, "-"))
                for key in sorted({*a.run, *b.run})
            ),
        ),
    )  # fmt: skip


def _files(a: Manifest, b: Manifest) -> tuple[tuple[str, int | None, int | None, bool], ...]:
    left = {f.path: f for f in a.files}
    right = {f.path: f for f in b.files}
    found = []
    for path in sorted({*left, *right}):
        one, two = left.get(path), right.get(path)
        same = one is not None and two is not None and one.sha256 == two.sha256
        found.append((path, one.size if one else None, two.size if two else None, same))
    return tuple(found)
