"""The keys of this machine: a device key made on first use, release keys under a passphrase.

A device key signs what happens here (publish, dev, staging). A release key signs for prod; at
rest it is encrypted with a key that Argon2id (MODERATE: 256 MiB) derives from the passphrase.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput, Conflict, IntegrityError, NotFound, Refused
from engine.registry import canonical
from engine.registry.envelope import key_id
from engine.registry.names import check_name
from engine.supervise.durable import sync_folder, write_durably

MIN_PASSPHRASE = 8


@dataclass(frozen=True)
class SigningPair:
    """An Ed25519 key that can sign; never printed, never logged."""

    id: str
    public: bytes
    seed: bytes

    def __repr__(self) -> str:
        return f"SigningPair({self.id[:16]})"

    @property
    def signer(self) -> tuple[str, bytes]:
        return self.id, self.seed


def fingerprint(identity: str) -> str:
    """A key id as people compare it: groups of four hex digits."""
    return " ".join(identity[i : i + 4] for i in range(0, 32, 4))


def _pair(seed: bytes) -> SigningPair:
    from nacl.signing import SigningKey

    public = bytes(SigningKey(seed).verify_key)
    return SigningPair(key_id(public), public, seed)


def device_key(folder: Path) -> SigningPair:
    """The key of this machine, made on first use (mode 0600).

    Raises:
        IntegrityError: the file is damaged.
        Refused: others may read it.
    """
    path = folder / "device.json"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return new_device_key(folder)
    if mode & 0o077:
        raise Refused(
            "the device key may be read by others",
            why=f"{path} has mode {mode & 0o777:04o}",
            hint=f"chmod 600 {path}; if somebody may have read it: modelops-tui keys rotate",
        )
    return read_key(path)


def new_device_key(folder: Path) -> SigningPair:
    """Make a device key; two processes that race both get the one that was first."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "device.json"
    pair = new_pair()
    partial = folder / f".device.{os.getpid()}.{os.urandom(4).hex()}"
    write_durably(partial, key_file(pair))
    try:
        os.link(partial, path)
    except FileExistsError:
        pair = read_key(path)
    finally:
        partial.unlink()
    sync_folder(folder)
    return pair


def new_pair() -> SigningPair:
    """A fresh key."""
    return _pair(os.urandom(32))


def read_key(path: Path) -> SigningPair:
    """The key in a device key's file.

    Raises:
        IntegrityError: it is damaged.
    """
    return _pair(_seed(path))


def key_file(pair: SigningPair) -> bytes:
    """What a device key's file holds."""
    return canonical.dumps(
        {"algorithm": "ed25519", "id": pair.id, "seed": base64.b64encode(pair.seed).decode()}
    )


def _seed(path: Path) -> bytes:
    value = canonical.loads(path.read_bytes(), str(path))
    seed = base64.b64decode(value["seed"]) if isinstance(value, dict) and "seed" in value else b""
    if len(seed) != 32 or _pair(seed).id != value.get("id"):
        raise IntegrityError(f"{path} is damaged", why="its seed does not belong to its key id")
    return seed


@dataclass(frozen=True)
class ReleaseKeyFile:
    """An encrypted release key on this machine."""

    name: str
    id: str
    public: bytes
    path: Path


def release_keys(folder: Path) -> tuple[ReleaseKeyFile, ...]:
    """The release keys kept here, by name."""
    found = []
    for path in sorted(folder.glob("release-*.json")):
        value = _release_document(path)
        found.append(
            ReleaseKeyFile(
                path.stem.removeprefix("release-"),
                value["id"],
                base64.b64decode(value["public"]),
                path,
            )
        )
    return tuple(found)


def create_release_key(folder: Path, name: str, passphrase: str) -> SigningPair:
    """Make a release key and keep it encrypted.

    Raises:
        BadInput: the name or the passphrase is too short.
        Conflict: there is one of that name.
    """
    check_name(name)
    _check_passphrase(passphrase)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"release-{name}.json"
    if path.exists():
        raise Conflict(f"there is a release key {name!r} already", hint="give another --name")
    pair = _pair(os.urandom(32))
    write_durably(path, _sealed(pair, passphrase))
    return pair


def set_aside_unlisted(folder: Path, name: str, listed: Collection[str]) -> None:
    """Make room for a release key of this name where one was made and never let in (a kill)."""
    for key in release_keys(folder):
        if key.name == name and key.id not in listed:
            key.path.rename(folder / f"unlisted-{name}-{key.id[:16]}.json")


def unlock_release_key(folder: Path, passphrase: str, name: str | None = None) -> SigningPair:
    """Decrypt a release key (about 0.7 s: that is what makes guessing slow).

    Args:
        folder: ``keys/``.
        passphrase: never taken from argv by the callers.
        name: which key; may be left out where there is one.

    Raises:
        NotFound: no such key here.
        Refused: the passphrase is wrong, or the file was changed.
    """
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    path = _release_path(folder, name)
    value = _release_document(path)
    kdf = value["kdf"]
    if not (1 <= kdf["ops"] <= 16 and 8 << 20 <= kdf["memory"] <= 1 << 30):
        raise IntegrityError(f"{path} is damaged", why="its Argon2id limits are out of range")
    key = _derive(passphrase, base64.b64decode(kdf["salt"]), kdf["ops"], kdf["memory"])
    try:
        seed = SecretBox(key).decrypt(base64.b64decode(value["box"]))
    except CryptoError as error:
        raise Refused(
            f"the release key {path.stem.removeprefix('release-')!r} stays locked",
            why="the passphrase is wrong, or the file was changed",
        ) from error
    pair = _pair(seed)
    if pair.id != value["id"]:
        raise IntegrityError(f"{path} is damaged", why="the key in it is not the one it names")
    return pair


def change_passphrase(folder: Path, name: str | None, old: str, new: str) -> None:
    """Encrypt a release key anew; the key itself stays."""
    _check_passphrase(new)
    pair = unlock_release_key(folder, old, name)
    write_durably(_release_path(folder, name), _sealed(pair, new))


def _release_path(folder: Path, name: str | None) -> Path:
    keys = release_keys(folder)
    matching = [key for key in keys if name in (None, key.name)]
    if len(matching) == 1:
        return matching[0].path
    if not matching:
        raise NotFound(
            f"there is no release key {name!r} here" if name else "there is no release key here",
            hint="modelops-tui keys create-release",
        )
    raise BadInput(
        "there are several release keys here", why=", ".join(k.name for k in matching),
        hint="name one with --key",
    )  # fmt: skip


def _release_document(path: Path) -> dict[str, Any]:
    value = canonical.loads(path.read_bytes(), str(path))
    if not isinstance(value, dict) or set(value) != {"algorithm", "id", "public", "kdf", "box"}:
        raise IntegrityError(f"{path} is damaged", why="it is no release key file")
    return value


def _sealed(pair: SigningPair, passphrase: str) -> bytes:
    from nacl import pwhash
    from nacl.secret import SecretBox

    ops, memory = pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE
    salt = os.urandom(pwhash.argon2id.SALTBYTES)
    box = SecretBox(_derive(passphrase, salt, ops, memory)).encrypt(pair.seed)
    return canonical.dumps(
        {
            "algorithm": "ed25519",
            "id": pair.id,
            "public": base64.b64encode(pair.public).decode(),
            "kdf": {
                "name": "argon2id",
                "ops": ops,
                "memory": memory,
                "salt": base64.b64encode(salt).decode(),
            },
            "box": base64.b64encode(bytes(box)).decode(),
        }
    )


def _derive(passphrase: str, salt: bytes, ops: int, memory: int) -> bytes:
    from nacl import pwhash

    derived: bytes = pwhash.argon2id.kdf(
        32, passphrase.encode(), salt, opslimit=ops, memlimit=memory
    )
    return derived


def _check_passphrase(passphrase: str) -> None:
    if len(passphrase) < MIN_PASSPHRASE:
        raise BadInput(
            "the passphrase is too short", why=f"it needs at least {MIN_PASSPHRASE} characters"
        )


def passphrase_from_keyring() -> str | None:
    """The passphrase the system's keyring keeps for us, where there is a keyring and it has one."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        found = keyring.get_password("modelops-tui", "release-key")
    except (KeyringError, OSError):
        return None
    return str(found) if found is not None else None
