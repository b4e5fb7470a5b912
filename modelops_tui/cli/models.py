"""``modelops-tui models``: the registry's artifacts, from the shell."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import IntegrityError
from modelops_tui.cli.comparing import compare
from modelops_tui.cli.output import ExitCode, Format, out

if TYPE_CHECKING:
    from engine.types.artifacts import ArtifactDetail, ArtifactView

app = typer.Typer(
    no_args_is_help=True, help="Signed artifacts: models, adapters, datasets, indexes, reports."
)

Ref = Annotated[
    str, typer.Argument(metavar="REF", help="NAME, NAME@STAGE, NAME@VERSION, sha256:… or a prefix.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Note = Annotated[str, typer.Option("--note", help="Why; kept in the audit trail.")]


def _row(view: ArtifactView) -> dict[str, Any]:
    return {
        "name": view.name,
        "version": view.version,
        "type": view.artifact_type,
        "stages": ",".join(view.stages),
        "size": _size(view.size_bytes),
        "created": datetime.fromtimestamp(view.created, UTC).strftime("%Y-%m-%d %H:%M"),
        "license": view.license,
        "tags": ",".join(view.tags),
        "state": "yanked" if view.yanked else "partial" if view.partial else "ok",
        "id": view.manifest.removeprefix("sha256:")[:12],
        "manifest": view.manifest,
        "size_bytes": view.size_bytes,
        "metrics": dict(view.metrics),
    }


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return str(count)


@app.command("list")
def list_command(
    artifact_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only what this stage holds.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    metric: Annotated[str | None, typer.Option(help='A bound: "perplexity<=12".')] = None,
    text: Annotated[str | None, typer.Option("--search", "-s", help="Words to look for.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The outputs of steps too.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV.")] = False,
) -> None:
    """Artifacts, newest first."""
    out.choose(as_json=as_json, as_csv=as_csv)
    views = Workbench().artifacts.list(
        artifact_type, stage, tag, text, metric, include_runs=every, limit=limit
    )
    out.rows(
        ("name", "version", "type", "stages", "size", "created", "license", "state", "id"),
        [_row(view) for view in views],
        empty=(
            "no artifact fits"
            if any((artifact_type, stage, tag, text, metric))
            else "no artifact here yet: `modelops-tui run` a recipe, or `modelops-tui models add`"
        ),
    )


@app.command()
def show(ref: Ref, as_json: Json = False) -> None:
    """Manifest, files, signatures, lineage, stages and history of one artifact."""
    out.choose(as_json=as_json)
    found = Workbench().artifacts.show(ref)
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(found))
        return
    view = found.view
    row = _row(view)
    out.record(
        {
            "name": f"{view.name}@{view.version}",
            "manifest": view.manifest,
            **{key: row[key] for key in ("type", "stages", "tags", "license", "size", "created")},
            "scan": found.scan,
            "metrics": ", ".join(f"{k}={v:g}" for k, v in view.metrics.items()) or None,
            "model.sig": found.model_sig,
            "sbom": found.sbom,
            "note": found.license_note or view.yank_reason or None,
        }
    )
    _parts(found)
    if found.card:
        out.line()
        out.line(found.card.rstrip())


app.command()(compare)


def _parts(found: ArtifactDetail) -> None:
    out.line()
    out.rows(("path", "size", "media_type", "sha256", "present"), [vars(f) for f in found.files])
    out.line()
    out.rows(("state", "role", "fingerprint", "owner"), [vars(s) for s in found.signatures])
    edges = [
        {
            "edge": rel,
            "artifact": node if isinstance(node, str) else f"{node.name}@{node.version}",
        }
        for rel, node in found.parents
    ]
    edges += [
        {"edge": f"<- {rel}", "artifact": f"{c.name}@{c.version}"} for rel, c in found.children
    ]
    if edges:
        out.line()
        out.rows(("edge", "artifact"), edges)
    out.line()
    out.rows(("time", "who", "text", "verdict"), [vars(e) for e in found.events])


@app.command()
def verify(
    ref: Ref,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte again.")] = False,
    as_json: Json = False,
) -> None:
    """Check signature, publication and every file; exit status 6 when anything is wrong."""
    out.choose(as_json=as_json)
    report = Workbench().artifacts.verify(
        ref, deep, lambda done, total: out.status(f"checked {_size(done)} of {_size(total)}")
    )
    out.status_end()
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(report))
    elif report.ok:
        how = "every byte read" if deep else "unchanged since the last full read, or read now"
        out.line(f"{report.name}: right ({report.files} files, {_size(report.size_bytes)}, {how})")
    if not report.ok:
        if out.format is Format.TABLE:
            raise IntegrityError(
                f"{report.name} is not what was signed",
                why="; ".join(report.problems[:20]),
                hint="modelops-tui models fsck --deep",
            )
        raise typer.Exit(ExitCode.INTEGRITY)


@app.command()
def path(ref: Ref) -> None:
    """A folder with the artifact's files, verified now."""
    out.line(str(Workbench().artifacts.path(ref)))


@app.command()
def lineage(
    ref: Ref,
    down: Annotated[bool, typer.Option("--down", help="What was made from it.")] = False,
    depth: Annotated[int, typer.Option(min=1, help="How far.")] = 100,
    as_json: Json = False,
) -> None:
    """What an artifact was made from, or (--down) what was made from it."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    nodes = artifacts.lineage(ref, up=not down, depth=depth)
    if out.format is not Format.TABLE:
        out.json([dataclasses.asdict(node) for node in nodes])
        return
    start = artifacts.resolve(ref)
    out.line(f"{start.name}@{start.version}  {start.artifact_type}")
    children: dict[str, list[Any]] = {}
    for node in nodes:
        children.setdefault(node.parent_of, []).append(node)
    _branch(children, start.manifest, "  ")


def _branch(children: dict[str, list[Any]], manifest: str, indent: str) -> None:
    # a stack instead of recursion: a lineage may be a thousand deep
    stack = [(node, indent) for node in reversed(children.get(manifest, []))]
    while stack:
        node, space = stack.pop()
        known = (
            f"{node.view.name}@{node.view.version}  {node.view.artifact_type}"
            if node.view
            else "not here"
        )
        out.line(f"{space}{node.relation.replace('_', ' ')}: {known}  {node.manifest[7:19]}")
        stack += [(child, space + "  ") for child in reversed(children.get(node.manifest, []))]


@app.command()
def add(
    files: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or a file.")],
    name: Annotated[str, typer.Option("--name", help="What to call it.")],
    artifact_type: Annotated[str, typer.Option("--type", help="model, adapter, ...")] = "model",
    version: Annotated[str | None, typer.Option(help="By default one more.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeat for more.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="SPDX expression.")] = None,
    card: Annotated[Path | None, typer.Option(help="A Markdown file about it.")] = None,
    parent: Annotated[
        list[str] | None, typer.Option("--parent", metavar="REL=REF", help="base=REF, ...")
    ] = None,
    allow_pickles: Annotated[
        bool, typer.Option("--allow-pickles", help="Let plain-tensor pickles in (never to prod).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish files of your own, signed."""
    out.choose(as_json=as_json)
    view = Workbench().artifacts.add(
        files,
        name=name,
        artifact_type=artifact_type,
        version=version,
        tags=tag or (),
        license=license_,
        card=card.read_text(encoding="utf-8") if card else "",
        parents=[tuple(p.split("=", 1)) for p in parent or ()],  # type: ignore[misc]
        allow_pickles=allow_pickles,
        progress=lambda file, done, total: out.status(f"{file}: {_size(done)} of {_size(total)}"),
    )
    out.status_end()
    out.record({k: v for k, v in _row(view).items() if k not in ("id", "size_bytes", "state")})


@app.command()
def stages(as_json: Json = False) -> None:
    """The stages, who may move them, and their gates."""
    out.choose(as_json=as_json)
    rows = [
        {**vars(stage), "gates": "; ".join(stage.gates)} for stage in Workbench().artifacts.stages()
    ]
    nothing = "no registry yet: the first job or `modelops-tui models add` makes it"
    out.rows(("name", "role", "threshold", "held", "gates"), rows, empty=nothing)


@app.command()
def gates(
    ref: Ref,
    stage: Annotated[str, typer.Argument(help="dev, staging, prod or your own.")],
    as_json: Json = False,
) -> None:
    """Each condition for a promotion, met or not; exit status 5 when one is not."""
    out.choose(as_json=as_json)
    results = Workbench().artifacts.gates(ref, stage)
    out.rows(("ok", "name", "text"), [vars(r) for r in results])
    if not all(result.ok for result in results):
        raise typer.Exit(ExitCode.REFUSED)


@app.command()
def promote(
    ref: Ref,
    stage: Annotated[str, typer.Argument(help="dev, staging, prod or your own.")],
    note: Note = "",
    key: Annotated[str | None, typer.Option("--key", help="Which release key.")] = None,
    passphrase_fd: Annotated[
        int | None,
        typer.Option("--passphrase-fd", help="Read it from this descriptor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move a stage to this version, through its gates."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    words = None
    if any(gate.needs_passphrase for gate in artifacts.gates(ref, stage)):
        words = passphrase(passphrase_fd, needed=False)
    view = artifacts.promote(ref, stage, note=note, passphrase=words, key=key)
    if out.format is not Format.TABLE:
        out.json(_row(view))
    else:
        out.line(f"{view.name}@{view.version} is {stage}")


def passphrase(fd: int | None, *, needed: bool = True, confirm: bool = False) -> str | None:
    """The release key's passphrase: a descriptor, the keyring, or a prompt; never argv."""
    if fd is not None:
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(4096).decode("utf-8").rstrip("\r\n")
    from engine.registry.keys import passphrase_from_keyring

    kept = passphrase_from_keyring()
    if kept is not None:
        return kept
    import sys

    if not sys.stdin.isatty():
        if not needed:
            return None
        from engine.errors import BadInput

        raise BadInput(
            "no passphrase was given",
            why="there is no terminal to ask on",
            hint="--passphrase-fd 3 3<file, or keep it in the system's keyring",
        )
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


@app.command()
def approve(
    ref: Ref,
    stage: Annotated[str, typer.Argument(help="The stage to approve for.")],
    note: Note = "",
    key: Annotated[str | None, typer.Option("--key", help="Which release key.")] = None,
    passphrase_fd: Annotated[
        int | None,
        typer.Option("--passphrase-fd", help="Read it from this descriptor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Agree with your release key that a version may enter a stage."""
    out.choose(as_json=as_json)
    words = passphrase(passphrase_fd)
    count = Workbench().artifacts.approve(ref, stage, passphrase=words or "", key=key, note=note)
    if as_json:
        out.json({"ref": ref, "stage": stage, "keys": count})
        return
    out.line(f"approved: {count} key(s) agree now")


@app.command()
def demote(
    name: Annotated[str, typer.Argument(help="The artifact's name.")],
    stage: Annotated[str, typer.Argument(help="The stage to empty.")],
    note: Note = "",
    key: Annotated[str | None, typer.Option("--key", help="Which release key.")] = None,
    passphrase_fd: Annotated[
        int | None,
        typer.Option("--passphrase-fd", help="Read it from this descriptor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a name's version out of a stage."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    words = None
    if artifacts.demotion_needs_passphrase(stage):
        words = passphrase(passphrase_fd, needed=False)
    artifacts.demote(name, stage, note=note, passphrase=words, key=key)
    if as_json:
        out.json({"name": name, "stage": stage, "version": None})
    out.say(f"{name} has nothing in {stage} now")


@app.command()
def tag(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="TAG", help="For example: golden.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    as_json: Json = False,
) -> None:
    """Put a tag on a version (it leaves the one that had it)."""
    out.choose(as_json=as_json)
    view = Workbench().artifacts.tag(ref, name, remove=remove)
    if as_json:
        out.json({"id": view.id, "name": view.name, "version": view.version, "tags": view.tags})
    out.say(f"{view.name}@{view.version}: tags {', '.join(view.tags) or 'none'}")


@app.command()
def yank(
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", help="Shown to whoever asks.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Recommend it again.")] = False,
    as_json: Json = False,
) -> None:
    """Advise against a version: names pass over it, exact references still find it."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    view = artifacts.resolve(ref)
    artifacts.yank(ref, reason, undo=undo)
    if as_json:
        out.json({"id": view.id, "name": view.name, "version": view.version, "yanked": not undo})
    out.say(f"{ref} is {'back' if undo else 'yanked'}")


@app.command()
def rm(
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the audit trail.")] = "",
    as_json: Json = False,
) -> None:
    """Delete a version; `models gc` frees its bytes."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    view = artifacts.resolve(ref)
    artifacts.delete(ref, reason)
    if as_json:
        out.json({"id": view.id, "name": view.name, "version": view.version, "deleted": True})
    out.say(f"{ref} is deleted; `modelops-tui models gc --apply` frees its bytes")


@app.command()
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Free; without it, only tell.")] = False,
    grace: Annotated[
        float | None, typer.Option("--grace", help="Hours a blob must be old (24).", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Free the blobs that no artifact needs."""
    out.choose(as_json=as_json)
    report = Workbench().artifacts.gc(
        dry_run=not apply, grace_s=None if grace is None else grace * 3600
    )
    out.record(dataclasses.asdict(report))
    if report.dry_run and report.blobs:
        out.say("nothing was freed: --apply frees")


@app.command()
def fsck(
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte of every blob.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended here.")] = False,
    repair_from: Annotated[
        str | None, typer.Option("--repair-from", metavar="REMOTE", help="Fetch damaged blobs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the registry's own files; exit status 6 when something is wrong."""
    out.choose(as_json=as_json)
    report = Workbench().artifacts.fsck(
        deep=deep,
        repair=repair,
        repair_from=repair_from,
        progress=lambda done, total: out.status(f"read {_size(done)} of {_size(total)}"),
    )
    out.status_end()
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(report))
    else:
        out.rows(("kind", "subject", "text", "repaired"), [vars(f) for f in report.faults])
        out.say(
            f"{report.blobs} blobs, {report.manifests} manifests, {report.events} events, "
            f"{_size(report.bytes_read)} read in {report.seconds:.1f} s: "
            + ("all right" if report.ok else "NOT right")
        )
    if not report.ok:
        raise typer.Exit(ExitCode.INTEGRITY)


@app.command("export")
def export_command(
    ref: Ref,
    target: Annotated[Path, typer.Argument(help="A new file or folder.")],
    form: Annotated[str, typer.Option("--as", help="tar, folder, oci, hf or gguf.")] = "tar",
) -> None:
    """Write an artifact for others (folder: with a model.sig that model_signing verifies)."""
    out.line(str(Workbench().artifacts.export(ref, target, form)))


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="Our tar, an OCI or HF layout.", exists=True)],
    name: Annotated[str | None, typer.Option("--name", help="What to call it here.")] = None,
    root: Annotated[
        str | None, typer.Option("--root", help="The other registry's root fingerprint.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take in an exported tar, an OCI layout or a Hugging Face cache, everything verified."""
    out.choose(as_json=as_json)
    view = Workbench().artifacts.import_from(source, name=name, root=root)
    out.record({k: v for k, v in _row(view).items() if k not in ("id", "size_bytes", "state")})


@app.command("verify-folder")
def verify_folder(
    folder: Annotated[Path, typer.Argument(help="A model's folder.", exists=True)],
    public_key: Annotated[Path, typer.Option("--public-key", help="PEM.", exists=True)],
    signature: Annotated[
        Path | None, typer.Option("--signature", help="By default model.sig in the folder.")
    ] = None,
) -> None:
    """Check a folder against a model.sig made by us or by model_signing."""
    count = Workbench().artifacts.verify_folder(
        folder, signature or folder / "model.sig", public_key
    )
    out.line(f"right: {count} files are what was signed")
