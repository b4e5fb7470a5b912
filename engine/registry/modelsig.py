"""``model.sig``: Sigstore bundles that ``model_signing verify key`` reads, and reading theirs.

One in-toto statement (method files, sha256) signed by P-256, which the tool checks, and by the
Ed25519 device key beside it (the tool reads the first signature only and knows no Ed25519).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import IntegrityError
from engine.registry import envelope
from engine.registry.documents import Manifest
from engine.supervise.durable import write_durably

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from engine.registry.store import Store

IN_TOTO = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
_MAX_BYTES = 64 << 20


def attest_key(folder: Path) -> bytes:
    """The public half (DER) of this machine's P-256 key, made on first use."""
    from cryptography.hazmat.primitives import serialization

    return (
        _private(folder)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def public_pem(folder: Path) -> bytes:
    """The public half in PEM: what ``model_signing verify key --public_key`` wants."""
    from cryptography.hazmat.primitives import serialization

    return (
        _private(folder)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _private(folder: Path) -> EllipticCurvePrivateKey:
    # cryptography costs 60 ms to import: only where a signature is made
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "attest.pem"
    if not path.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        partial = folder / f".attest.{os.getpid()}.{os.urandom(4).hex()}"
        write_durably(partial, pem)
        try:
            os.link(partial, path)
        except FileExistsError:
            pass  # another process was first: its key is the one
        finally:
            partial.unlink()
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"{path} is damaged", why="it holds no elliptic-curve key")
    return key


def statement(name: str, files: Mapping[str, str]) -> bytes:
    """The in-toto statement over files (path -> sha256 hex)."""
    total = hashlib.sha256()
    resources = []
    for path in sorted(files):
        total.update(bytes.fromhex(files[path]))
        resources.append({"name": path, "algorithm": "sha256", "digest": files[path]})
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": total.hexdigest()}}],
            "predicateType": PREDICATE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": ["model.sig"],
                },
                "resources": resources,
            },
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def bundle(store: Store, manifest: Manifest) -> bytes:
    """The signed bundle of an artifact."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from nacl.signing import SigningKey

    payload = statement(manifest.name, {f.path: f.sha256 for f in manifest.files})
    message = envelope.pae(IN_TOTO, payload)
    private = _private(store.layout.keys)
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    ours = bytes(SigningKey(store.device.seed).sign(message).signature)
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": IN_TOTO,
                "signatures": [
                    {
                        "sig": _b64(private.sign(message, ec.ECDSA(hashes.SHA256()))),
                        "keyid": "",
                    },
                    {"sig": _b64(ours), "keyid": store.device.id},
                ],
            },
        }
    ).encode()


def attest(store: Store, digest: str, manifest: Manifest, bom: bytes) -> None:
    """Keep ``model.sig`` and the bill of materials beside a manifest (both can be made again)."""
    folder = store.layout.attest / digest
    folder.mkdir(exist_ok=True)
    (folder / "sbom.cdx.json").write_bytes(bom)
    (folder / "model.sig").write_bytes(bundle(store, manifest))


def verify_folder(folder: Path, signature: Path, public_key: bytes) -> dict[str, str]:
    """Check a folder against anybody's ``model.sig`` (P-256, P-384 or P-521).

    Args:
        folder: the model.
        signature: the bundle; a file of it inside the folder is not part of the model.
        public_key: PEM of the key one trusts.

    Returns:
        path -> sha256 of the files that were checked.

    Raises:
        IntegrityError: the signature, the statement or a file is wrong; or a file is too many.
    """
    from engine.registry.blobs import hash_file
    from engine.registry.names import check_paths

    listed, ignored = read_bundle(signature, public_key)
    check_paths(listed)
    present = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_symlink() or not file.is_dir()
    }
    skip = {*ignored, ".git", ".gitattributes", ".github", ".gitignore"}
    if signature.is_relative_to(folder):
        skip.add(signature.relative_to(folder).as_posix())
    present = {p for p in present if not any(p == s or p.startswith(f"{s}/") for s in skip)}
    if present != set(listed):
        odd = sorted(present ^ set(listed))
        raise IntegrityError(
            f"{folder} is not what was signed", why=f"missing or additional: {', '.join(odd[:5])}"
        )
    for path, digest in listed.items():
        if hash_file(folder / path) != digest:
            raise IntegrityError(f"{folder} is not what was signed", why=f"{path} was changed")
    return listed


def read_bundle(signature: Path, public_key: bytes) -> tuple[dict[str, str], list[str]]:
    """The files a bundle vouches for (path -> sha256), and the paths it ignores.

    Raises:
        IntegrityError: it is no such bundle, or the key did not sign it.
    """
    try:
        if signature.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        document = json.loads(signature.read_bytes())
        sealed = document["dsseEnvelope"]
        payload = base64.b64decode(sealed["payload"], validate=True)
        first = base64.b64decode(sealed["signatures"][0]["sig"], validate=True)
        if document["mediaType"] != BUNDLE or sealed["payloadType"] != IN_TOTO:
            raise ValueError("its media type or payload type is another one")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{signature} is no model.sig", why=str(error)) from error
    _check_ec(public_key, first, envelope.pae(IN_TOTO, payload), signature)
    try:
        return _resources(json.loads(payload))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise IntegrityError(f"{signature} is refused", why=f"its statement: {error}") from error


def _check_ec(public_key: bytes, signature: bytes, message: bytes, where: Path) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(public_key)
    except ValueError as error:
        raise IntegrityError("the public key can't be read", why=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("the public key is refused", why="it is no elliptic-curve key")
    sizes: dict[int, hashes.HashAlgorithm] = {
        256: hashes.SHA256(),
        384: hashes.SHA384(),
        521: hashes.SHA512(),
    }
    algorithm = sizes.get(key.key_size)
    if algorithm is None:
        raise IntegrityError("the public key is refused", why=f"its curve is {key.curve.name}")
    try:
        key.verify(signature, message, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise IntegrityError(f"{where} is refused", why="that key did not sign it") from error


def _resources(document: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    if document["predicateType"] != PREDICATE:
        raise ValueError(f"the predicate is {document['predicateType']!r}")
    serialization = document["predicate"]["serialization"]
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        raise ValueError("only the method files with sha256 is checked here")
    total = hashlib.sha256()
    files: dict[str, str] = {}
    for resource in document["predicate"]["resources"]:
        if resource["algorithm"] != "sha256" or resource["name"] in files:
            raise ValueError(f"the resource {resource['name']!r} is listed twice, or not by sha256")
        files[resource["name"]] = resource["digest"]
        total.update(bytes.fromhex(resource["digest"]))
    if total.hexdigest() != document["subject"][0]["digest"]["sha256"]:
        raise ValueError("its subject is not the digest of its resources")
    return files, [str(p) for p in serialization.get("ignore_paths", [])]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
