"""The trust root: a chain of documents that says which key may do what.

Version n+1 is signed by a threshold of version n's root role and of its own. A key never leaves
the root, it is revoked there with the last sequence number that is still believed, so what it
signed in good times stays checkable.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import Conflict, IntegrityError, Refused
from engine.registry import envelope
from engine.registry.documents import (
    PAYLOAD,
    Event,
    PublicKey,
    Revocation,
    Role,
    Root,
    StageRule,
    now,
    parse,
    payload_of,
)
from engine.registry.envelope import Envelope, key_id
from engine.registry.layout import Layout
from engine.supervise.durable import sync_folder, write_durably

ROOT_TYPE = PAYLOAD.format("root")
RoleName = Literal["root", "device", "release", "attest"]
DEFAULT_STAGES = (
    StageRule(name="dev", role="device"),
    StageRule(name="staging", role="device"),
    StageRule(name="prod", role="release"),
)


@dataclass(frozen=True)
class Trust:
    """Every version of the root, verified as a chain."""

    roots: tuple[Root, ...]
    fingerprint: str
    """sha256 of the first root's file: what a person pins."""

    @property
    def current(self) -> Root:
        return self.roots[-1]

    def at(self, version: int) -> Root:
        """The root of one version.

        Raises:
            IntegrityError: it is not here (yet).
        """
        if not 1 <= version <= len(self.roots):
            raise IntegrityError(
                f"the trust root {version} is not known here",
                why=f"the newest is {len(self.roots)}",
                hint="pull first",
            )
        return self.roots[version - 1]

    def public_keys(self) -> dict[str, bytes]:
        """Every Ed25519 key of the current root, revoked ones too (id -> raw bytes)."""
        return public_keys(self.current)

    def stage(self, name: str, version: int | None = None) -> StageRule | None:
        """The rule of a stage under the current root, or under an older one."""
        root = self.current if version is None else self.at(version)
        return next((rule for rule in root.stages if rule.name == name), None)

    def has_role(self, key: str, role: str, version: int | None = None) -> bool:
        root = self.current if version is None else self.at(version)
        members = root.roles.get(role)  # type: ignore[call-overload]
        return members is not None and key in members.keys

    def believed(self, key: str, event: Event) -> bool:
        """True when ``key`` was not revoked before it signed ``event``."""
        revocation = self.current.revoked.get(key)
        return revocation is None or event.seq <= revocation.last_good.get(event.writer, 0)

    def refuse_signer(self, event: Event, signers: set[str], author: str) -> str:
        """Why the signatures of an event are not enough to be heard at all; empty when they are."""
        if author not in signers:
            return "its first signature is not right, or its key is not in the trust root"
        if event.root > len(self.roots):
            return f"it names the trust root {event.root}, which is not known here"
        if not (
            self.has_role(author, "device", event.root)
            or self.has_role(author, "release", event.root)
        ):
            return f"the key {author[:16]} is no device or release key of root {event.root}"
        if not self.believed(author, event):
            return f"the key {author[:16]} was revoked: {self.current.revoked[author].reason}"
        return ""


def public_keys(root: Root) -> dict[str, bytes]:
    """The Ed25519 keys of one root document."""
    return {
        identity: base64.b64decode(key.public)
        for identity, key in root.keys.items()
        if key.algorithm == "ed25519"
    }


def public_entry(public: bytes, owner: str, algorithm: str = "ed25519") -> dict[str, PublicKey]:
    """A key as the root lists it, under its id."""
    entry = PublicKey(
        algorithm=algorithm,  # type: ignore[arg-type]
        public=base64.b64encode(public).decode(),
        owner=owner,
    )
    return {key_id(public): entry}


def first_root(
    registry: str, device: bytes, owner: str, p256: bytes | None, seed: bytes
) -> Envelope:
    """Root 1 of a new registry: the device key holds every role but release."""
    keys = public_entry(device, owner)
    roles = {"root": Role(keys=list(keys)), "device": Role(keys=list(keys))}
    if p256 is not None:
        attest = public_entry(p256, owner, "ecdsa-p256")
        keys |= attest
        roles["attest"] = Role(keys=list(attest))
    root = Root(
        registry=registry,
        version=1,
        created=now(),
        keys=keys,
        roles=roles,  # type: ignore[arg-type]
        stages=list(DEFAULT_STAGES),
    )
    return envelope.seal(ROOT_TYPE, payload_of(root), [(key_id(device), seed)])


def load(layout: Layout, pinned: str | None) -> Trust:
    """Read and check the chain of roots.

    Args:
        layout: the registry.
        pinned: sha256 of root 1 that ``registry.json`` names.

    Raises:
        IntegrityError: a root is missing, changed, or not signed by the one before it.
    """
    blobs: list[bytes] = []
    while True:
        try:
            blobs.append(layout.root_document(len(blobs) + 1).read_bytes())
        except FileNotFoundError:
            break
    return verify_chain(blobs, pinned)


def verify_chain(documents: Iterable[bytes], pinned: str | None) -> Trust:
    """The roots of a registry, checked from the first one on.

    Raises:
        IntegrityError: with the version and the reason.
    """
    roots: list[Root] = []
    fingerprint = ""
    for number, data in enumerate(documents, 1):
        what = f"trust root {number}"
        sealed = envelope.parse(data, ROOT_TYPE, what)
        root = parse(Root, sealed.payload, what)
        if number == 1:
            fingerprint = hashlib.sha256(data).hexdigest()
            if pinned is not None and fingerprint != pinned:
                raise IntegrityError(
                    "trust root 1 is not the one this registry began with",
                    why=f"its sha256 is {fingerprint[:16]}…, pinned is {pinned[:16]}…",
                    hint="somebody replaced the root of trust: restore it from a backup",
                )
        _check_root(root, number, roots[-1] if roots else None, sealed, what)
        roots.append(root)
    if not roots:
        raise IntegrityError(
            "this registry has no trust root",
            why="trust/1.root.json is missing",
            hint="restore the folder trust/ from a backup or from a remote",
        )
    return Trust(tuple(roots), fingerprint)


def _check_root(root: Root, number: int, old: Root | None, sealed: Envelope, what: str) -> None:
    def refuse(why: str) -> IntegrityError:
        return IntegrityError(f"{what} is refused", why=why)

    if root.version != number:
        raise refuse(f"it says it is version {root.version}")
    for identity, key in root.keys.items():
        if key_id(base64.b64decode(key.public)) != identity:
            raise refuse(f"the key {identity[:16]} is listed under another key's id")
    for role in root.roles.values():
        if not set(role.keys) <= set(root.keys):
            raise refuse("a role names a key that is not listed")
    if len({rule.name for rule in root.stages}) != len(root.stages):
        raise refuse("a stage is listed twice")
    _check_threshold(root, root, sealed, refuse)
    if old is None:
        return
    if root.registry != old.registry:
        raise refuse("it belongs to another registry")
    if not set(old.keys) <= set(root.keys) or not set(old.revoked) <= set(root.revoked):
        raise refuse("it drops a key or a revocation; keys are revoked, never removed")
    for name, role in old.roles.items():
        members = root.roles.get(name)
        lost = set(role.keys) - set(members.keys if members else ()) - set(root.revoked)
        if lost and name != "root":
            raise refuse(f"it takes the role {name} from a key without revoking it")
    _check_threshold(old, root, sealed, refuse)


def _check_threshold(judge: Root, root: Root, sealed: Envelope, refuse: object) -> None:
    role = judge.roles.get("root")
    if role is None or not role.keys:
        raise refuse("it has no root role")  # type: ignore[operator]
    trusted = {k: v for k, v in public_keys(judge).items() if k in role.keys}
    if judge is root:
        # a key that this very root revokes can't vouch for it
        trusted = {k: v for k, v in trusted.items() if k not in root.revoked}
    signed = sealed.signers(trusted)
    if len(signed) < role.threshold:
        raise refuse(  # type: ignore[operator]
            f"{len(signed)} of the {role.threshold} needed keys of root {judge.version} signed it"
        )


def next_root(
    current: Root,
    *,
    keys: Mapping[str, PublicKey] | None = None,
    roles: Mapping[RoleName, Role] | None = None,
    stages: Iterable[StageRule] | None = None,
    revoked: Mapping[str, Revocation] | None = None,
) -> Root:
    """The root after ``current`` with the given parts replaced or added."""
    return Root(
        registry=current.registry,
        version=current.version + 1,
        created=now(),
        keys={**current.keys, **(keys or {})},
        roles={**current.roles, **(roles or {})},
        stages=list(stages) if stages is not None else list(current.stages),
        revoked={**current.revoked, **(revoked or {})},
    )


def install_root(
    layout: Layout, trust: Trust, root: Root, signers: Iterable[tuple[str, bytes]]
) -> Trust:
    """Sign and write the next root, create-only; the caller holds the registry's lock.

    Raises:
        Refused: the signers can't authorise it.
        Conflict: that version appeared meanwhile.
    """
    sealed = envelope.seal(ROOT_TYPE, payload_of(root), signers)
    documents = [layout.root_document(n).read_bytes() for n in range(1, root.version)]
    try:
        checked = verify_chain([*documents, sealed.to_bytes()], trust.fingerprint)
    except IntegrityError as error:
        raise Refused("the change of the trust root is refused", why=error.why) from error
    create_only(layout.root_document(root.version), sealed.to_bytes())
    return checked


def create_only(path: Path, data: bytes) -> None:
    """Write a whole new file durably; an existing one is never replaced.

    Raises:
        Conflict: there is one, with other bytes.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    write_durably(partial, data)
    try:
        os.link(partial, path)
    except FileExistsError:
        if path.read_bytes() != data:
            raise Conflict(f"{path.name} was written by somebody else meanwhile") from None
    finally:
        partial.unlink()
    sync_folder(path.parent)
