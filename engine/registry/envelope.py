"""DSSE envelopes with Ed25519: one payload type a document kind, keys never from the envelope.

The form is https://github.com/secure-systems-lab/dsse (v1.0.2), held stricter: canonical bytes, no
unknown field, no key id twice. Ed25519 is PyNaCl's (libsodium refuses non-canonical signatures).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import IntegrityError
from engine.registry import canonical

_MAX_SIGNATURES = 64


def key_id(public: bytes) -> str:
    """The id of a key: the sha256 of its public bytes, so that one key has one id."""
    return hashlib.sha256(public).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope. Nothing in it is believed before ``signers`` was asked."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    """(key id, signature), in the order of the file."""

    def to_bytes(self) -> bytes:
        return canonical.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": key, "sig": base64.b64encode(signature).decode()}
                    for key, signature in self.signatures
                ],
            }
        )

    def signers(self, trusted: Mapping[str, bytes]) -> set[str]:
        """Distinct ids of the trusted keys whose signature is right.

        Args:
            trusted: key id -> 32 raw public bytes, from the trust root.
        """
        message = pae(self.payload_type, self.payload)
        return {
            key
            for key, signature in self.signatures
            if key in trusted and valid(trusted[key], message, signature)
        }


def valid(public: bytes, message: bytes, signature: bytes) -> bool:
    """True when ``signature`` is the key's Ed25519 signature of ``message``."""
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def seal(payload_type: str, payload: bytes, signers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Sign ``payload`` with every (key id, 32-byte seed)."""
    from nacl.signing import SigningKey

    message = pae(payload_type, payload)
    signatures = tuple(
        (key, bytes(SigningKey(seed).sign(message).signature)) for key, seed in signers
    )
    return Envelope(payload_type, payload, signatures)


def parse(data: bytes, payload_type: str, what: str) -> Envelope:
    """Read an envelope of one payload type.

    Raises:
        IntegrityError: not canonical, another payload type, unknown fields, a key twice.
    """
    value = canonical.loads(data, what)
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise _refuse(what, "it is no DSSE envelope, or has fields that one does not have")
    if value["payloadType"] != payload_type:
        raise _refuse(what, f"it is a {value['payloadType']!r}, not a {payload_type!r}")
    entries = value["signatures"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_SIGNATURES:
        raise _refuse(what, "it has no signature, or too many")
    signatures = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"}:
            raise _refuse(what, "a signature has fields other than keyid and sig")
        signatures.append((str(entry["keyid"]), _decode(entry["sig"], what)))
    keys = [key for key, _ in signatures]
    if len(set(keys)) != len(keys):
        raise _refuse(what, "one key signs twice")
    return Envelope(payload_type, _decode(value["payload"], what), tuple(signatures))


def _decode(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise _refuse(what, "a base64 field is no string")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refuse(what, f"base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise _refuse(what, "its base64 is not canonical")
    return data


def _refuse(what: str, why: str) -> IntegrityError:
    return IntegrityError(f"{what} is refused", why=why)
