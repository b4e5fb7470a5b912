"""``modelops-tui keys``: this machine's keys, and who may do what in the registry."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from engine.api import Workbench
from modelops_tui.cli.models import passphrase
from modelops_tui.cli.output import Format, out


def _tell(text: str, **facts: Any) -> None:
    """One sentence, or the same facts as JSON."""
    if out.format is Format.TABLE:
        out.line(text)
    else:
        out.json(facts)


app = typer.Typer(no_args_is_help=True, help="Signing keys and the trust root.")

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
KeyName = Annotated[str | None, typer.Option("--key", help="Which release key to unlock.")]
Fd = Annotated[
    int | None, typer.Option("--passphrase-fd", help="Read the passphrase from this descriptor.")
]


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """Every key of the trust root."""
    out.choose(as_json=as_json)
    rows = [{**vars(k), "roles": ",".join(k.roles)} for k in Workbench().artifacts.keys()]  # noqa: SIM118
    out.rows(
        ("fingerprint", "owner", "algorithm", "roles", "here", "revoked"),
        rows,
        empty="no key yet: the first job, `modelops-tui models add` or `modelops-tui keys show` "
        "makes this machine's",
    )


@app.command()
def show(as_json: Json = False) -> None:
    """The device key of this machine (made now if there is none): what lets it in elsewhere."""
    out.choose(as_json=as_json)
    out.record(Workbench().artifacts.device())


@app.command("create-release")
def create_release(
    name: Annotated[str, typer.Option("--name", help="What to call it.")] = "release",
    key: KeyName = None,
    new_passphrase_fd: Annotated[
        int | None, typer.Option("--new-passphrase-fd", help="The new key's passphrase.")
    ] = None,
    passphrase_fd: Fd = None,
    as_json: Json = False,
) -> None:
    """Make a release key (for prod), encrypted with a passphrase."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    unlock = passphrase(passphrase_fd) if artifacts.root_is_locked() else None
    out.say("choose the passphrase of the new release key")
    words = passphrase(new_passphrase_fd, confirm=True) or ""
    view = artifacts.create_release_key(name, words, passphrase=unlock, key=key)
    _tell(f"release key {name}: {view.fingerprint}", name=name, fingerprint=view.fingerprint)


@app.command()
def passwd(
    key: KeyName = None,
    passphrase_fd: Fd = None,
    new_passphrase_fd: Annotated[
        int | None, typer.Option("--new-passphrase-fd", help="The new passphrase.")
    ] = None,
) -> None:
    """Change a release key's passphrase."""
    old = passphrase(passphrase_fd) or ""
    out.say("choose the new passphrase")
    Workbench().artifacts.change_passphrase(
        old, passphrase(new_passphrase_fd, confirm=True) or "", key=key
    )
    out.say("the passphrase is changed")


@app.command("add")
def add(
    public: Annotated[str, typer.Argument(help="What `keys show` prints there as public.")],
    owner: Annotated[str, typer.Option("--owner", help="Whose it is.")],
    role: Annotated[str, typer.Option("--role", help="device or release.")] = "device",
    key: KeyName = None,
    passphrase_fd: Fd = None,
    as_json: Json = False,
) -> None:
    """Let another machine's or person's key in."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    view = artifacts.add_key(
        public,
        _role(role),
        owner,
        passphrase=passphrase(passphrase_fd) if artifacts.root_is_locked() else None,
        key=key,
    )
    text = f"{role} key {view.fingerprint} of {owner} is in the trust root"
    _tell(text, fingerprint=view.fingerprint, role=role, owner=owner)


def _role(text: str) -> Literal["device", "release"]:
    if text == "device":
        return "device"
    if text == "release":
        return "release"
    from engine.errors import BadInput

    raise BadInput(f"{text!r} is no role", hint="--role device, or --role release")


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="KEY", help="Its fingerprint, 8 digits or more.")],
    reason: Annotated[str, typer.Option("--reason", help="Kept in the trust root.")],
    stolen_since: Annotated[
        list[str] | None,
        typer.Option("--last-good", metavar="WRITER=SEQ", help="Believe only up to here."),
    ] = None,
    believe_nothing: Annotated[
        bool, typer.Option("--believe-nothing", help="Nothing it ever signed counts.")
    ] = False,
    key: KeyName = None,
    passphrase_fd: Fd = None,
    as_json: Json = False,
) -> None:
    """Stop believing a key; by default what it signed until now stays believed."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    last_good: dict[str, int] | None = None
    if stolen_since:
        last_good = dict(map(_sequence, stolen_since))
    elif believe_nothing:
        last_good = {}
    kept = artifacts.revoke_key(
        which,
        reason,
        last_good=last_good,
        passphrase=passphrase(passphrase_fd) if artifacts.root_is_locked() else None,
        key=key,
    )
    believed = ", ".join(f"{w} up to {seq}" for w, seq in kept.items()) or "nothing"
    _tell(f"revoked; still believed: {believed}", key=which, believed=kept)


def _sequence(text: str) -> tuple[str, int]:
    writer, _, sequence = text.partition("=")
    if writer and sequence.isdecimal():
        return writer, int(sequence)
    from engine.errors import BadInput

    raise BadInput(
        f"--last-good {text!r} is no writer and sequence number",
        hint="WRITER=SEQ, as `audit log --json` names them: --last-good 0f3a=12",
    )


@app.command()
def rotate(key: KeyName = None, passphrase_fd: Fd = None, as_json: Json = False) -> None:
    """Make a new device key here; what the old one signed stays believed."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    unlock = passphrase(passphrase_fd) if artifacts.root_is_locked() else None
    view = artifacts.rotate_device_key(passphrase=unlock, key=key)
    _tell(view.fingerprint, fingerprint=view.fingerprint)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage.")],
    role: Annotated[str, typer.Option("--role", help="device or release.")] = "device",
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="Keys that must agree.")] = 1,
    before: Annotated[str | None, typer.Option("--before", help="Its place.")] = None,
    key: KeyName = None,
    passphrase_fd: Fd = None,
    as_json: Json = False,
) -> None:
    """Add a stage, or change who may move it."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    artifacts.set_stage(
        name,
        _role(role),
        threshold,
        before=before,
        passphrase=passphrase(passphrase_fd) if artifacts.root_is_locked() else None,
        key=key,
    )
    _tell(f"{name}: {threshold} {role} key(s)", name=name, role=role, threshold=threshold)


@app.command("export-public")
def export_public() -> None:
    """The P-256 key in PEM, for `model_signing verify key --public_key`."""
    out.raw(Workbench().artifacts.attest_public_pem())
