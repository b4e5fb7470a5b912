"""Push, pull and clone over a real S3 server; and one that ignores conditions is seen through."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import ModelOpsError, Refused
from engine.registry.sync import multipart
from engine.registry.sync.remotes import connect, probe
from engine.registry.sync.s3 import S3, Place, boto_client
from engine.registry.sync.s3 import credentials as credentials_of
from engine.types.artifacts import SyncProgress
from tests.engine.registry.conftest import make_folder

pytest.importorskip("obstore")

Machine = Callable[[str], Artifacts]


def test_two_machines_share_a_bucket(machine: Machine, bucket: str, tmp_path: Path) -> None:
    alice, bob = machine("alice"), machine("bob")
    alice.add(make_folder(tmp_path / "one"), name="bot", artifact_type="model")
    alice.promote("bot", "dev")
    view = alice.remote_add("origin", bucket)
    assert view.shared
    seen: list[SyncProgress] = []
    assert alice.push(progress=seen.append).blobs == 2
    assert seen[-1].done == seen[-1].total > 0
    bob.clone(bucket, fingerprint=alice.device()["root"])
    assert (bob.path("bot@dev") / "config.json").read_text() == "{}"
    with pytest.raises(Refused, match="may not"):
        bob.add(tmp_path / "one", name="other", artifact_type="model")
    alice.add_key(bob.device()["public"], "device", "bob")
    alice.push()
    bob.pull()
    bob.add(make_folder(tmp_path / "two", "bye"), name="bot", artifact_type="model")
    bob.push()
    assert alice.pull().blobs == 1
    assert [v.version for v in alice.list()] == ["2", "1"]
    assert alice.fsck(deep=True).ok
    assert bob.fsck(deep=True).ok


def test_concurrent_pushes_lose_nothing(machine: Machine, bucket: str, tmp_path: Path) -> None:
    first = machine("m0")
    first.add(make_folder(tmp_path / "src"), name="base", artifact_type="model")
    first.remote_add("origin", bucket)
    first.push()
    machines = [first]
    for n in (1, 2):
        other = machine(f"m{n}")
        other.clone(bucket)
        first.add_key(other.device()["public"], "device", f"m{n}")
        machines.append(other)
    first.push()

    def work(n: int) -> None:
        machines[n].pull()
        for round_ in range(3):
            source = make_folder(tmp_path / f"src{n}-{round_}", f"{n}{round_}")
            machines[n].add(source, name=f"bot{n}", artifact_type="model")
            machines[n].push()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    for each in machines:
        each.pull()
        assert sorted(f"{v.name}@{v.version}" for v in each.list()) == sorted(
            ["base@1", *(f"bot{n}@{v}" for n in range(3) for v in (1, 2, 3))]
        )
        assert each.fsck().ok


def test_the_bad_server_is_seen_through(
    machine: Machine, bad_s3: str, credentials: None, tmp_path: Path
) -> None:
    url = f"s3://models/shared?endpoint={bad_s3}"
    verdict = probe(connect(url))
    assert not verdict.shared
    alice, bob = machine("alice"), machine("bob")
    alice.add(make_folder(tmp_path / "src"), name="bot", artifact_type="model")
    assert "single writer only" in alice.remote_add("origin", url).note
    alice.push()
    bob.clone(url)
    alice.add_key(bob.device()["public"], "device", "bob")
    alice.push()
    bob.pull()
    bob.add(make_folder(tmp_path / "two", "x"), name="other", artifact_type="model")
    with pytest.raises(Refused, match="can't be shared"):
        bob.push()


def test_wrong_credentials_say_so(
    machine: Machine, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Refused, match="refused the credentials"):
        machine("alice").remote_add("origin", bucket)


def test_no_server_says_so(machine: Machine, credentials: None) -> None:
    from tests.engine.registry.servers import free_ports

    (port,) = free_ports(1)
    transport = S3(f"s3://models/x?endpoint=http://127.0.0.1:{port}")
    transport._store = transport._store.__class__(
        "models",
        config={"endpoint": f"http://127.0.0.1:{port}", "region": "us-east-1",
                "access_key_id": "a", "secret_access_key": "b"},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )  # fmt: skip
    with pytest.raises(ModelOpsError, match="could not be reached"):
        transport.get("registry.json", 100)


def test_an_interrupted_upload_resumes(bucket: str, tmp_path: Path) -> None:
    place = Place.parse(bucket)
    client = boto_client(place)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 40)
    key = f"{place.prefix}/blobs/sha256/large"
    upload = client.create_multipart_upload(Bucket=place.bucket, Key=key)["UploadId"]
    part = path.read_bytes()[: multipart.PART_BYTES]
    client.upload_part(Bucket=place.bucket, Key=key, UploadId=upload, PartNumber=1, Body=part)
    client.upload_part(
        Bucket=place.bucket, Key=key, UploadId=upload, PartNumber=2, Body=b"x" * len(part)
    )
    seen: list[int] = []
    # part 1 is right and stays; part 2 has other bytes and is sent again
    access = multipart.Access(*credentials_of(place), place.region)
    assert multipart.upload_parts(client, access, place.bucket, key, path, seen.append) == 1
    assert sum(seen) == path.stat().st_size
    assert not client.list_multipart_uploads(Bucket=place.bucket, Prefix=key).get("Uploads")
    got = client.get_object(Bucket=place.bucket, Key=key)["Body"].read()
    assert got == path.read_bytes()


@pytest.mark.parametrize(
    "url", ["s3://key:secret@models/x", "s3:///x", "s3://models/x?colour=red", "s3://models/a//b"]
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ModelOpsError):
        Place.parse(url)
