"""Changing who may do what: every change is a new version of the trust root, and an event.

Once there is a release key, it holds the root role too: a stolen device key can then publish until
it is revoked, and nothing more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from engine.errors import BadInput, Conflict, NotFound, Refused
from engine.registry import keys as keyring
from engine.registry import rotation
from engine.registry.documents import KeyChange, Revocation, Role, Root, StageRule, now
from engine.registry.envelope import key_id
from engine.registry.keys import SigningPair, fingerprint
from engine.registry.log import who
from engine.registry.names import check_tag
from engine.registry.trust import RoleName, install_root, next_root, public_entry
from engine.supervise.crash import crash_point
from engine.types.artifacts import KeyView

if TYPE_CHECKING:
    from engine.registry.store import Store

_FROM = "give what `keys show` prints as public on the other machine"


def keys(store: Store) -> tuple[KeyView, ...]:
    """Every key of the trust root."""
    store.db()
    root = store.trust.current
    here = {store.device.id, *(key.id for key in keyring.release_keys(store.layout.keys))}
    return tuple(
        KeyView(
            key=identity,
            fingerprint=fingerprint(identity),
            owner=key.owner,
            algorithm=key.algorithm,
            roles=tuple(name for name, role in root.roles.items() if identity in role.keys),
            here=identity in here,
            revoked=root.revoked[identity].reason if identity in root.revoked else "",
        )
        for identity, key in root.keys.items()
    )


def _change(store: Store, root: Root, signers: Sequence[SigningPair], note: str) -> None:
    """Install a root and record it. Under the lock."""
    store.trust = install_root(
        store.layout, store.trust, root, [signer.signer for signer in signers]
    )
    crash_point("registry.rooted")
    store.commit(KeyChange(root=root.version, note=note))


def _with_member(root: Root, role: RoleName, key: str, threshold: int | None = None) -> Role:
    old = root.roles.get(role)
    members = [*(old.keys if old else []), *([] if old and key in old.keys else [key])]
    return Role(keys=members, threshold=threshold or (old.threshold if old else 1))


def root_signers(store: Store, unlocked: Sequence[SigningPair]) -> list[SigningPair]:
    """Those of our keys that may change the root.

    Raises:
        Refused: none of them may.
    """
    role = store.trust.current.roles["root"]
    found = [key for key in (store.device, *unlocked) if key.id in role.keys]
    if len({key.id for key in found}) < role.threshold:
        raise Refused(
            "the trust root can't be changed here",
            why=f"it takes {role.threshold} key(s) of the root role, {len(found)} are unlocked",
            hint="unlock a release key (its passphrase is asked for)",
        )
    return found


def create_release(
    store: Store, name: str, passphrase: str, unlocked: Sequence[SigningPair] = ()
) -> KeyView:
    """Make a release key here and let the root name it.

    The first one takes over the root role from the device key.

    Raises:
        Refused: the root has a release key already and it was not unlocked.
    """
    with store.locked():
        store.db()
        signers = root_signers(store, unlocked)
        root = store.trust.current
        keyring.set_aside_unlisted(store.layout.keys, name, root.keys)
        pair = keyring.create_release_key(store.layout.keys, name, passphrase)
        crash_point("registry.release-made")
        first = "release" not in root.roles
        roles: dict[RoleName, Role] = {"release": _with_member(root, "release", pair.id)}
        if first:
            roles["root"] = Role(keys=[pair.id])
        changed = next_root(root, keys=public_entry(pair.public, f"{name} ({who()})"), roles=roles)
        try:
            _change(store, changed, [*signers, pair], f"release key {name}")
        except Exception:
            (store.layout.keys / f"release-{name}.json").unlink(missing_ok=True)
            raise
    return next(view for view in keys(store) if view.key == pair.id)


def add_key(
    store: Store,
    public: str,
    role: Literal["device", "release"],
    owner: str,
    unlocked: Sequence[SigningPair] = (),
) -> KeyView:
    """Let another machine's (or person's) key in.

    Args:
        store: the registry.
        public: base64 of its 32 public bytes, as ``keys show`` prints it there.
        role: what it may do.
        owner: whose it is; for people.
        unlocked: release keys, where the root role asks for one.

    Raises:
        BadInput: that is no public key.
        Conflict: it is listed already.
    """
    try:
        raw = base64.b64decode(public, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("that is no public key", f"base64: {error}", _FROM) from error
    if len(raw) != 32:
        raise BadInput("that is no public key", f"it has {len(raw)} bytes, not 32", _FROM)
    identity = key_id(raw)
    with store.locked():
        store.db()
        root = store.trust.current
        if root.revoked.get(identity):
            raise Refused(
                "that key was revoked",
                why=root.revoked[identity].reason,
                hint="make a new key there",
            )
        if store.trust.has_role(identity, role):
            raise Conflict(f"that key is a {role} key already")
        signers = root_signers(store, unlocked)
        changed = next_root(
            root,
            keys=public_entry(raw, owner),
            roles={role: _with_member(root, role, identity)},
        )
        _change(store, changed, signers, f"{role} key {identity[:16]} of {owner}")
    return next(view for view in keys(store) if view.key == identity)


def revoke(
    store: Store,
    key: str,
    reason: str,
    unlocked: Sequence[SigningPair] = (),
    last_good: dict[str, int] | None = None,
) -> dict[str, int]:
    """Stop believing a key.

    Args:
        store: the registry.
        key: its id, or an unambiguous beginning.
        reason: kept in the root.
        unlocked: release keys, where the root role asks for one.
        last_good: the last believed sequence number by writer; by default all that is here now (the
            key was lost, not stolen). ``{}`` believes nothing it ever signed.

    Returns:
        The last good sequence numbers that were recorded.

    Raises:
        NotFound: no such key.
        Conflict: it is the only key of the root role.
    """
    with store.locked():
        db = store.db()
        root = store.trust.current
        identity = find_key(store, key)
        if identity in root.revoked:
            raise Conflict("that key is revoked already", why=root.revoked[identity].reason)
        if last_good is None:
            last_good = {
                row["writer"]: row["seq"]
                for row in db.execute("select writer, seq from heads where author=?", (identity,))
            }
            if identity != store.device.id:
                last_good |= {
                    row[0]: row[1]
                    for row in db.execute(
                        "select writer, max(seq) from events where signers like ? group by writer",
                        (f"%{identity}%",),
                    )
                }
        signers = root_signers(store, unlocked)
        remaining = [k for k in root.roles["root"].keys if k != identity]
        roles: dict[RoleName, Role] = {}
        if identity in root.roles["root"].keys:
            if not remaining and identity != store.device.id:
                raise Conflict(
                    "that is the only key of the root role",
                    why="nobody could change the trust root any more",
                    hint="add another release key first: modelops-tui keys create-release",
                )
            if remaining:
                threshold = min(root.roles["root"].threshold, len(remaining))
                roles["root"] = Role(keys=remaining, threshold=threshold)
        changed = next_root(
            root,
            roles=roles,
            revoked={identity: Revocation(reason=reason, time=now(), last_good=last_good)},
        )
        if identity == store.device.id:
            # this machine goes on under a new key that the same root lets in
            _replace_device(store, changed, signers, reason)
        else:
            _change(store, changed, signers, f"revoked {identity[:16]}: {reason}")
    return last_good


def rotate_device(store: Store, unlocked: Sequence[SigningPair] = ()) -> KeyView:
    """Make a new device key here; the old one stays believed for what it signed."""
    revoke(store, store.device.id, "rotated", unlocked)
    return next(view for view in keys(store) if view.key == store.device.id)


def _replace_device(
    store: Store, changed: Root, signers: Sequence[SigningPair], reason: str
) -> None:
    old = store.device
    fresh = rotation.begin(store)
    roles: dict[RoleName, Role] = {"device": _with_member(changed, "device", fresh.id)}
    root_role = store.trust.current.roles["root"]
    if root_role.keys == [old.id]:
        roles["root"] = Role(keys=[fresh.id])
    elif old.id in root_role.keys:
        roles["root"] = changed.roles["root"]
    merged = changed.model_copy(
        update={
            "keys": {**changed.keys, **public_entry(fresh.public, who())},
            "roles": {**changed.roles, **roles},
        }
    )
    store.trust = install_root(
        store.layout, store.trust, merged, [signer.signer for signer in (*signers, fresh)]
    )
    crash_point("registry.rotate-rooted")
    rotation.finish(store, f"new device key {fresh.id[:16]}: {reason}")


def set_stage(
    store: Store,
    name: str,
    role: Literal["device", "release"],
    threshold: int,
    unlocked: Sequence[SigningPair] = (),
    *,
    before: str | None = None,
) -> None:
    """Add a stage to the ladder, or change who may move it.

    Args:
        store: the registry.
        name: the stage.
        role: whose keys count.
        threshold: how many distinct keys must agree.
        unlocked: release keys, where the root role asks for one.
        before: put a new stage before this one; by default at the end.
    """
    check_tag(name, "stage")
    if name in ("latest", "none"):
        raise BadInput(f"{name!r} can't be a stage")
    with store.locked():
        store.db()
        root = store.trust.current
        rule = StageRule(name=name, role=role, threshold=threshold)
        rules = [rule if r.name == name else r for r in root.stages]
        if rule not in rules:
            names = [r.name for r in rules]
            if before is not None and before not in names:
                raise NotFound(f"there is no stage {before!r}")
            rules.insert(names.index(before) if before else len(rules), rule)
        _change(
            store,
            next_root(root, stages=rules),
            root_signers(store, unlocked),
            f"stage {name}: {threshold} {role} key(s)",
        )


def find_key(store: Store, text: str) -> str:
    """The id of a listed key from its beginning (spaces as in fingerprints are fine).

    Raises:
        NotFound: no key, or several, begin so.
    """
    wanted = text.replace(" ", "").lower()
    found = [key for key in store.trust.current.keys if key.startswith(wanted)]
    if len(found) != 1 or len(wanted) < 8:
        raise NotFound(
            f"{len(found)} keys begin with {text!r}",
            hint="give 8 or more digits of its fingerprint",
        )
    return found[0]


def public_text(pair: SigningPair) -> str:
    """A public key as it is handed to the holder of a registry."""
    return base64.b64encode(pair.public).decode()
