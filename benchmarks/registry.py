"""The registry's local costs beside plain hashing, model_signing and DVC.

    [DVC=/path/to/dvc] python -m benchmarks.registry [--mib 512] [--artifacts 100000]

CPU seconds, measured in turns (ours, theirs, ours, theirs, ...) in one process; prints Markdown.
The 100,000 artifacts are folded from events made in memory: only the index is measured on them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.paths import StatePaths
from engine.registry import Registry
from engine.registry.documents import Event, FileEntry, Manifest, Parent, Publish, Scan
from engine.registry.log import SignedEvent

ROUNDS = 3


def cpu(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def row(what: str, ours: list[float], theirs: list[float], bar: str) -> None:
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"| {what} | {a:.3f} s | {b:.3f} s | {a / b:.2f} | {bar} |", flush=True)


def make_files(folder: Path, mib: int) -> Path:
    folder.mkdir()
    block = os.urandom(1 << 20)
    for n in range(4):
        with open(folder / f"model-{n}.bin", "wb") as file:
            for part in range(mib // 4):
                file.write(n.to_bytes(4, "big") + part.to_bytes(4, "big") + block[8:])
    return folder


def hash_and_copy(source: Path, target: Path) -> None:
    """What has to be done at least: read once, hash, write."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        digest = hashlib.sha256()
        buffer = bytearray(1 << 20)
        view = memoryview(buffer)
        with open(path, "rb", buffering=0) as file, open(target / path.name, "wb", 0) as out:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                out.write(view[:count])
            os.fsync(out.fileno())
    shutil.rmtree(target)


def measure_publish(root: Path, mib: int) -> None:
    source = make_files(root / "source", mib)
    ours, theirs, again = [], [], []
    for n in range(ROUNDS):
        registry = Registry.open(StatePaths(root / f"state{n}"))
        registry.db()  # making the first index is not publishing
        theirs.append(cpu(lambda: hash_and_copy(source, root / "copy")))
        ours.append(
            cpu(lambda r=registry: r.publish(name="a", artifact_type="model", files=source))
        )
        again.append(
            cpu(lambda r=registry: r.publish(name="a", artifact_type="model", files=source))
        )
        if n < ROUNDS - 1:
            registry.close()
            shutil.rmtree(root / f"state{n}")
    row(f"publish {mib} MiB / hash + copy", ours, theirs, "1.25")
    second = statistics.median(again)
    print(f"| second publish of unchanged files | {second:.3f} s | - | - | no read |")


def measure_verify(root: Path, mib: int) -> None:
    registry = Registry.open(StatePaths(root / f"state{ROUNDS - 1}"))
    folder = root / "source"
    keys = registry.layout.keys
    signature = root / "model.sig"
    from engine.registry.modelsig import public_pem

    (root / "ec.pub").write_bytes(public_pem(keys))
    import model_signing

    model_signing.signing.Config().use_elliptic_key_signer(private_key=keys / "attest.pem").sign(
        folder, signature
    )

    def theirs() -> None:
        model_signing.verifying.Config().use_elliptic_key_verifier(
            public_key=root / "ec.pub"
        ).verify(folder, signature)

    mine, other = [], []
    for _ in range(ROUNDS):
        mine.append(cpu(lambda: registry.verify("a", deep=True)))
        other.append(cpu(theirs))
    row(f"verify {mib} MiB / model_signing", mine, other, "1.15")
    cached = cpu(lambda: registry.verify("a"))
    print(f"| verify, unchanged since the last full read | {cached:.4f} s | - | - | - |")


def measure_dvc(root: Path) -> None:
    """``models add`` beside ``dvc add``, both as commands, on the same files."""
    dvc = os.environ.get("DVC") or shutil.which("dvc")
    if dvc is None:
        print("| add / `dvc add` | - | - | - | DVC is not installed; set DVC=/path/to/dvc |")
        return
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    ours, theirs = [], []
    for n in range(ROUNDS):
        repository = root / f"dvc{n}"
        repository.mkdir()
        quiet = {"check": True, "cwd": repository, "env": environment, "stdout": subprocess.DEVNULL}
        subprocess.run([dvc, "init", "--no-scm", "-q"], **quiet)  # type: ignore[call-overload]
        shutil.copytree(root / "source", repository / "data")
        state = str(root / f"beside-dvc{n}")
        add = [sys.executable, "-m", "modelops_tui", "--state", state, "models", "add"]
        add += [str(root / "source"), "--name", "a", "--type", "model"]
        theirs.append(cpu(lambda q=quiet: subprocess.run([dvc, "add", "-q", "data"], **q)))
        ours.append(cpu(lambda q=quiet, a=add: subprocess.run(a, **q)))
        shutil.rmtree(repository)
        shutil.rmtree(state)
    row("`models add` (a whole command) / `dvc add`", ours, theirs, "-")


def synthetic(registry: Registry, count: int) -> None:
    """Fold ``count`` publications that exist only here; the last 1,000 are one lineage."""
    manifests: dict[str, Manifest] = {}
    events = []
    words = ["llama", "qwen", "mistral", "gemma", "chat", "code", "legal", "medical", "support"]
    before = None
    for n in range(1, count + 1):
        identity = "sha256:" + hashlib.sha256(str(n).encode()).hexdigest()
        deep = n > count - 1001 and before is not None
        manifests[identity] = Manifest(
            registry=registry.id,
            name=f"{words[n % 9]}-{n % 5000}",
            version=str(n // 5000 + 1),
            type=("model", "adapter", "quantized", "dataset")[n % 4],  # type: ignore[arg-type]
            created=f"2026-01-01T00:00:00.{n % 10**6:06d}Z",
            files=[FileEntry(path="model", sha256=identity[7:], size=n)],
            parents=[Parent(manifest=before, rel="base")] if deep and before else [],
            metrics={"perplexity": str(n % 100)},
            card=f"# A model about {words[n % 7]} and {words[n % 5]}\n\nNumber {n}.",
            license="Apache-2.0",
            scan=Scan(verdict="clean"),
            tags=[words[n % 9]],
        )
        before = identity
        body = Publish(
            manifest=identity,
            name=manifests[identity].name,
            version=manifests[identity].version,
        )
        event = Event(
            registry=registry.id,
            writer="0" * 16,
            seq=n,
            prev=None if n == 1 else hashlib.sha256(str(n - 1).encode()).hexdigest(),
            clock=n,
            root=1,
            time="2026-01-01T00:00:00Z",
            who="bench@host",
            body=body,
        )
        digest = hashlib.sha256(str(n).encode()).hexdigest()
        events.append(
            SignedEvent(event, digest, registry.device.id, frozenset({registry.device.id}))
        )
    registry.index._manifests = manifests.get
    registry.index.add(registry.db(), registry.trust, events, refold=False)
    last = registry.layout.event("0" * 16, count)
    last.parent.mkdir()
    last.touch()  # the head must exist for the index to be believed fresh


def measure_index(root: Path, count: int) -> None:
    registry = Registry.open(StatePaths(root / "many"))
    begun = time.perf_counter()
    synthetic(registry, count)
    print(f"\n{count} artifacts folded in {time.perf_counter() - begun:.0f} s\n")
    print("| question | p50 | p95 |\n|---|---|---|")
    newest = registry.list(limit=1)[0]
    questions: dict[str, Callable[[], object]] = {
        "list 50": lambda: registry.list(limit=50),
        "list 50 of a type": lambda: registry.list(artifact_type="adapter", limit=50),
        "next page": lambda: registry.list(limit=50, before=newest.id),
        "search one word": lambda: registry.list(text="medical", limit=50),
        "search two words": lambda: registry.list(text="legal qwen", limit=50),
        "search a rare word": lambda: registry.list(text="77777", limit=50),
        "by tag": lambda: registry.list(tag="llama", limit=50),
        "by metric": lambda: registry.list(metric="perplexity<1", limit=50),
        "by name": lambda: registry.list(name=newest.name, limit=50),
        "resolve name@version": lambda: registry.resolve(f"{newest.name}@{newest.version}"),
        "ancestors, 1,000 deep": lambda: registry.ancestors(newest.id),
        "lineage with views, 1,000 deep": lambda: registry.lineage(newest.id),
    }
    for what, ask in questions.items():
        times = []
        for _ in range(30):
            begun = time.process_time()
            ask()
            times.append((time.process_time() - begun) * 1000)
        times.sort()
        print(f"| {what} | {times[15]:.2f} ms | {times[28]:.2f} ms |", flush=True)


def start_up(root: Path) -> None:
    """The CLI's list in a fresh process: CPU beside a bare Python."""
    code = (
        "from engine.api import Workbench\n"
        f"Workbench({str(root / 'many')!r}).artifacts.list(limit=50)"
    )
    ours = [cpu(lambda: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(5)]
    bare = [cpu(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5)]
    a, b = statistics.median(ours), statistics.median(bare)
    print(f"\nlist in a fresh process: {a:.3f} CPU s (bare Python {b:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--artifacts", type=int, default=100_000)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-registry-"))
    try:
        print("| what | ours (CPU) | theirs (CPU) | ratio | bar |\n|---|---|---|---|---|")
        measure_publish(root, options.mib)
        measure_verify(root, options.mib)
        measure_dvc(root)
        if options.artifacts:
            measure_index(root, options.artifacts)
            start_up(root)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
