"""Push and pull beside the minio SDK and raw obstore, on one real S3 server (SeaweedFS).

    python -m benchmarks.registry_sync [--mib 256] [--files 4] [--small 500]

CPU of this process and wall time, in turns, in one run; prints Markdown. The server runs beside, so
wall time is shared with it; the ratio survives that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.api.artifacts import Artifacts
from engine.paths import StatePaths
from tests.engine.registry import servers

Cost = tuple[float, float]
Works = list[tuple[str, Callable[[], object]]]


def cost(work: Callable[[], object]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def row(what: str, ours: list[Cost], theirs: list[Cost], bar: str) -> None:
    """One line: CPU and wall seconds of the median round, and the ratios of medians and of bests.

    Noise only ever adds, so the best round says most about the work (as ``timeit`` has it).
    """
    a = [statistics.median(x[i] for x in ours) for i in (0, 1)]
    b = [statistics.median(x[i] for x in theirs) for i in (0, 1)]
    best = [min(x[i] for x in ours) / min(x[i] for x in theirs) for i in (0, 1)]
    print(
        f"| {what} | {a[0]:.2f} / {a[1]:.2f} | {b[0]:.2f} / {b[1]:.2f} | "
        f"{a[0] / b[0]:.2f} / {a[1] / b[1]:.2f} | {best[0]:.2f} / {best[1]:.2f} | {bar} |",
        flush=True,
    )


def make_folder(folder: Path, mib: int, files: int, small: int) -> Path:
    folder.mkdir()
    for n in range(files):
        (folder / f"model-{n}").write_bytes(os.urandom((mib << 20) // files))
    for n in range(small):
        (folder / f"small-{n}").write_bytes(os.urandom(4096))
    return folder


def by_minio(endpoint: str, prefix: str, folder: Path) -> None:
    from minio import Minio

    client = Minio(
        endpoint.removeprefix("http://"),
        access_key=servers.ACCESS,
        secret_key=servers.SECRET,
        secure=False,
    )
    for path in sorted(folder.iterdir()):
        client.fput_object("models", f"{prefix}/{path.name}", str(path))


def raw_store(endpoint: str) -> Any:
    from obstore.store import S3Store

    return S3Store(
        "models",
        config={
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": servers.ACCESS,
            "secret_access_key": servers.SECRET,
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True},
    )


def by_obstore(store: Any, prefix: str, target: Path, *, verify: bool = False) -> None:
    """What a pull does at least: stream every blob to a file, eight at a time.

    Args:
        store: the bucket.
        prefix: where the blobs are; each is named by its sha256.
        target: a folder to make.
        verify: hash each chunk on its way, which is the least that verifying can cost.
    """
    from concurrent.futures import ThreadPoolExecutor

    import obstore

    target.mkdir()
    keys = [item["path"] for page in obstore.list(store, prefix=prefix) for item in page]

    def one(key: str) -> None:
        name = Path(key).name
        digest = hashlib.sha256()
        with open(target / name, "wb") as out:
            for chunk in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                if verify:
                    digest.update(chunk)
                out.write(chunk)
            os.fsync(out.fileno())
        if verify and digest.hexdigest() != name:
            raise ValueError(f"{name} came damaged")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, keys))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--files", type=int, default=4, help="into how many the MiB are divided")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": servers.ACCESS,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET,
    }
    root = Path(tempfile.mkdtemp(prefix="bench-sync-"))
    (root / "weed").mkdir()
    try:
        with servers.seaweed(root / "weed") as endpoint:
            print("| what (CPU s / wall s) | ours | theirs | ratio | of bests | bar |")
            print("|---|---|---|---|---|---|")
            folder = make_folder(root / "source", options.mib, options.files, options.small)
            measure(root, endpoint, folder, options.rounds)
    finally:
        shutil.rmtree(root)


def measure(root: Path, endpoint: str, folder: Path, rounds: int) -> None:
    """Every contestant in every round, in an order that turns.

    What one of them wrote is removed before the next begins, and the disk is idle by then: memory
    that a machine touches for the first time costs several times as much, and whoever came second
    would pay for it.
    """
    store = raw_store(endpoint)
    costs: dict[str, list[Cost]] = {what: [] for what in ("push", "minio", "pull", "raw", "hashed")}
    for n in range(rounds):
        url = f"s3://models/ours{n}?endpoint={endpoint}"
        here = Artifacts(StatePaths(root / f"here{n}"))
        here.remote_add("origin", url)
        here.registry.db()
        here.push()
        there = Artifacts(StatePaths(root / f"there{n}"))
        there.clone(url)
        here.add(folder, name="a", artifact_type="model")
        blobs = f"ours{n}/blobs"
        up: Works = [
            ("push", here.push),
            ("minio", partial(by_minio, endpoint, f"theirs{n}", folder)),
        ]
        down: Works = [
            ("raw", partial(by_obstore, store, blobs, root / "raw")),
            ("pull", there.pull),
            ("hashed", partial(by_obstore, store, blobs, root / "hashed", verify=True)),
        ]
        for works in (up, down):
            for turn in range(len(works)):
                what, work = works[(turn + n) % len(works)]
                os.sync()
                costs[what].append(cost(work))
                for made in ("raw", "hashed") if what != "pull" else (f"there{n}",):
                    shutil.rmtree(root / made, ignore_errors=True)
        shutil.rmtree(root / f"here{n}")
    row("push / minio SDK", costs["push"], costs["minio"], "1.0")
    row("pull + verify / raw obstore", costs["pull"], costs["raw"], "1.1")
    row("pull + verify / raw obstore + sha256", costs["pull"], costs["hashed"], "-")


if __name__ == "__main__":
    main()
