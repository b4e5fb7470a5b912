"""Real S3 servers for tests: SeaweedFS, and rclone's as the one that ignores conditions."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ACCESS, SECRET = "testkey", "testsecret"
#: Seconds for a server to come up: only a failure ever waits so long.
PATIENCE = 60.0
TRIES = 3


def program(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, below those that the kernel gives to clients.

    The server takes them seconds later: until then a connection of anyone's, its own among them,
    could be given a port that the kernel chooses.
    """
    # 10,000 above each is taken by SeaweedFS for gRPC unless told otherwise, so all are told
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@contextmanager
def running(command: list[str], folder: Path, ready: str) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(process, ready, folder / "server.log")
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=10)
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server did not answer: {log.read_text()[-2000:]}")


@contextmanager
def seaweed(folder: Path, bucket: str = "models") -> Iterator[str]:
    with _started(_seaweed, folder, bucket) as endpoint:
        yield endpoint


@contextmanager
def rclone(folder: Path, bucket: str = "models") -> Iterator[str]:
    with _started(_rclone, folder, bucket) as endpoint:
        yield endpoint


@contextmanager
def _started(
    server: Callable[[Path, str], AbstractContextManager[str]], folder: Path, bucket: str
) -> Iterator[str]:
    """A server that answers; where a port was taken from under it, one with other ports."""
    for left in reversed(range(TRIES)):
        place = folder / f"try-{left}"
        place.mkdir(parents=True)
        begun = server(place, bucket)
        try:
            endpoint = begun.__enter__()
        except RuntimeError:
            if not left:
                raise
            continue
        try:
            yield endpoint
        finally:
            begun.__exit__(None, None, None)
        return


@contextmanager
def _seaweed(folder: Path, bucket: str) -> Iterator[str]:
    weed = program("weed")
    assert weed is not None
    names = ["s3", "filer", "master", "volume", "admin", "webdav"]
    grpc = ["s3", "filer", "master", "volume"]
    ports = free_ports(len(names) + len(grpc) + 1)
    options = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    options += [
        f"-{name}.port.grpc={port}" for name, port in zip(grpc, ports[len(names) :], strict=False)
    ]
    options.append(f"-admin.port.grpc={ports[-1]}")
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "test",
                        "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    data = folder / "data"
    data.mkdir()
    command = [
        weed, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}",
        "-master.telemetry=false", "-webdav=false", "-admin.ui=false", *options,
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports[0]}"
    with running(command, folder, endpoint):
        _make_bucket(endpoint, bucket)
        yield endpoint


def _make_bucket(endpoint: str, bucket: str) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server makes no bucket: {error}") from error
            time.sleep(0.2)


@contextmanager
def _rclone(folder: Path, bucket: str) -> Iterator[str]:
    binary = program("rclone")
    assert binary is not None
    (folder / "files" / bucket).mkdir(parents=True)
    (port,) = free_ports(1)
    command = [
        binary, "serve", "s3", "--auth-key", f"{ACCESS},{SECRET}", "--addr", f"127.0.0.1:{port}",
        str(folder / "files"),
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    with running(command, folder, endpoint):
        yield endpoint
