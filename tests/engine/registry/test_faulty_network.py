"""A proxy that cuts, delays, truncates, flips and swaps; and TLS under a private CA."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import ModelOpsError
from engine.registry.sync.arrival import RESUME_ABOVE, claim
from engine.types.artifacts import SyncProgress
from tests.engine.registry.conftest import make_folder

pytest.importorskip("obstore")

Machine = Callable[[str], Artifacts]
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Faults:
    """Which responses are spoilt, and how."""

    def __init__(self, kind: str = "", count: int = 0, where: str = "/blobs/sha256/") -> None:
        self.kind, self.left, self.where = kind, count, where
        self.last = b""
        self.ranges: list[str | None] = []
        """What was asked for: Range headers, or with ``bare ETags`` the If-Match headers."""
        self.lock = threading.Lock()

    def applies(self, method: str, path: str) -> bool:
        with self.lock:
            if method != "GET" or self.where not in path:
                return False
            self.left -= 1
            return self.left >= 0


@contextmanager
def proxy(endpoint: str, faults: Faults, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    target = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def forward(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length) if length else None
            wanted = self.headers.get("if-match", "")
            if faults.kind == "bare ETags" and wanted:
                faults.ranges.append(wanted)
                if wanted.startswith('"'):
                    self.send_response(412)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
            upstream = http.client.HTTPConnection(target, timeout=120)
            upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
            if self.command == "GET" and faults.where in self.path:
                faults.ranges.append(self.headers.get("range"))
            spoilt = faults.applies(self.command, self.path)
            sent, announced = spoil(faults, data) if spoilt else (data, len(data))
            if self.command == "HEAD":
                announced = int(answer.headers.get("content-length") or 0)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(announced))
            self.end_headers()
            self.wfile.write(sent)
            upstream.close()
            if len(sent) != announced and self.command != "HEAD":
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def spoil(faults: Faults, data: bytes) -> tuple[bytes, int]:
    """What is sent, and the length that is announced."""
    half = len(data) // 2
    if faults.kind == "cut":
        return data[:half], len(data)
    if faults.kind == "truncate":
        return data[:half], half
    if faults.kind == "flip":
        return data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :], len(data)
    if faults.kind == "delay":
        time.sleep(0.5)
        return data, len(data)
    # Never its own bytes: a blob fetched twice in a row would come back whole.
    other = faults.last if faults.last not in (b"", data) else bytes(len(data))
    faults.last = data
    return other, len(other)


@pytest.fixture
def shared(machine: Machine, bucket: str, tmp_path: Path) -> str:
    alice = machine("alice")
    folder = make_folder(tmp_path / "s")
    (folder / "more.txt").write_text("more " * 10_000)
    alice.add(folder, name="bot", artifact_type="model")
    alice.remote_add("origin", bucket)
    alice.push()
    return bucket


@pytest.mark.parametrize("kind", ["cut", "truncate", "flip", "delay", "swap"])
@pytest.mark.parametrize("where", ["/blobs/sha256/", "/log/", "/checkpoint.json"])
def test_a_fault_that_passes(machine: Machine, shared: str, s3: str, kind: str, where: str) -> None:
    """Once spoilt: it is fetched again, or the pull fails and changes nothing; then all is well."""
    bob = machine("bob")
    faults = Faults()
    with proxy(s3, faults) as endpoint:
        url = shared.replace(s3, endpoint)
        try:
            faults.kind, faults.left, faults.where = kind, 1, where
            bob.clone(url)
        except ModelOpsError:
            assert bob.list() == ()
            assert bob.fsck(deep=True).ok
            bob.pull()
    assert bob.verify("bot", deep=True).ok
    assert bob.fsck(deep=True).ok


@pytest.mark.parametrize("kind", ["truncate", "flip", "swap"])
def test_a_fault_that_stays(machine: Machine, shared: str, s3: str, kind: str) -> None:
    bob = machine("bob")
    with proxy(s3, Faults(kind, 1000)) as endpoint:
        with pytest.raises(ModelOpsError) as caught:
            bob.clone(shared.replace(s3, endpoint))
        assert "refused" in str(caught.value)
    assert bob.list() == ()
    assert bob.fsck(deep=True).ok
    assert not list(bob.registry.layout.staging.iterdir())


def test_a_server_that_wants_bare_etags(
    machine: Machine, bucket: str, s3: str, tmp_path: Path
) -> None:
    """As Ceph 16 does: a quoted If-Match never fits there, a bare one does."""
    alice = machine("alice")
    alice.add(make_folder(tmp_path / "s"), name="bot", artifact_type="model")
    faults = Faults("bare ETags")
    with proxy(s3, faults) as endpoint:
        assert alice.remote_add("origin", bucket.replace(s3, endpoint)).shared
        alice.push()
        alice.add(make_folder(tmp_path / "t", "t"), name="bot", artifact_type="model")
        faults.ranges.clear()
        alice.push()
    quoted, bare = faults.ranges
    assert quoted == f'"{bare}"'
    machine("bob").clone(bucket)
    assert machine("bob").resolve("bot").version == "2"


@pytest.fixture
def large(machine: Machine, bucket: str, tmp_path: Path) -> str:
    """A bucket with one artifact of one large file."""
    alice = machine("alice")
    path = tmp_path / "large" / "weights.txt"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1 << 20) * 24)
    assert path.stat().st_size > RESUME_ABOVE
    alice.add(path.parent, name="bot", artifact_type="model")
    alice.remote_add("origin", bucket)
    alice.push()
    return bucket


def test_a_cut_download_goes_on_where_it_was(machine: Machine, large: str, s3: str) -> None:
    bob = machine("bob")
    faults = Faults("cut", 2)
    with proxy(s3, faults) as endpoint:
        bob.clone(large.replace(s3, endpoint))
    assert [kind is not None for kind in faults.ranges] == [False, True, True]
    assert bob.verify("bot", deep=True).ok


@pytest.mark.parametrize("damaged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_pull_goes_on(
    machine: Machine, large: str, s3: str, damaged: bool, tmp_path: Path
) -> None:
    """What came stays in staging; the next pull asks for the rest, and believes neither."""
    bob = machine("bob")
    seen: list[SyncProgress] = []
    with proxy(s3, Faults("cut", 1000)) as endpoint, pytest.raises(ModelOpsError):
        bob.clone(large.replace(s3, endpoint), progress=seen.append)
    assert bob.list() == ()
    assert bob.fsck(deep=True).ok
    (left,) = bob.registry.layout.staging.iterdir()
    assert left.stat().st_size > 12 << 20
    if damaged:
        with open(left, "r+b") as file:
            file.write(b"\0")
    faults = Faults()
    with proxy(s3, faults) as endpoint:
        bob.remote_remove("origin")
        bob.remote_add("origin", large.replace(s3, endpoint))
        bob.pull(progress=seen.append)
    assert [kind is None for kind in faults.ranges] == [False, True][: 1 + damaged]
    assert bob.verify("bot", deep=True).ok
    assert not list(bob.registry.layout.staging.iterdir())
    assert seen[-1].done == seen[-1].total == seen[-1].file_done == 24 << 20


def test_two_pulls_do_not_write_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "pull-x"
    first = claim(path)
    assert first is not None
    assert claim(path) is None
    path.rename(tmp_path / "blob")
    os.close(first)
    again = claim(path)
    assert again is not None
    os.close(again)


def certificates(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A private CA's certificate, and a server's context under it."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in ("CA", "127.0.0.1")
    ]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    made = []
    for subject, key, is_ca in zip(names, keys, (True, False), strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        certificate = builder.sign(keys[0], hashes.SHA256())
        made.append(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.pem").write_bytes(made[0])
    (folder / "server.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made[1]
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context


def test_tls_under_a_private_ca(machine: Machine, shared: str, s3: str, tmp_path: Path) -> None:
    ca, context = certificates(tmp_path)
    with proxy(s3, Faults(), context) as endpoint:
        machine("bob").clone(shared.replace(s3, endpoint) + f"&ca={ca}")
        assert machine("bob").verify("bot", deep=True).ok


@pytest.mark.slow
def test_tls_without_the_ca_is_refused(
    machine: Machine, shared: str, s3: str, tmp_path: Path
) -> None:
    _, context = certificates(tmp_path)
    with proxy(s3, Faults(), context) as endpoint, pytest.raises(ModelOpsError):
        machine("bob").clone(shared.replace(s3, endpoint))
