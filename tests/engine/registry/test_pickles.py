"""Pickles are found whatever they are called or wrapped in; nothing is ever unpickled."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, Refused
from engine.registry import Registry
from engine.registry.pickles import ALLOWED_GLOBALS, find_pickle


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/registry-was-fooled",)


class Nested:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Evil, "__init__")


def zipped(data: bytes, name: str = "archive/data.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", "3")
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("weights")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def numpy_objects() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps(Evil())


EVIL = pickle.dumps(Evil())
HOLE = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
SHAPES: dict[str, bytes] = {
    **{f"protocol {n}": pickle.dumps(Evil(), protocol=n) for n in range(6)},
    "by hand": b"cos\nsystem\n(S'true'\ntR.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "no end": EVIL[:-1],
    "end cut": EVIL[:-1] + b"\xff\xff",
    "second of two": pickle.dumps([1, 2]) + EVIL,
    "computed name": pickle.dumps(Nested()),
    "torch zip": zipped(EVIL),
    "zip, renamed inside": zipped(EVIL, "weights/0"),
    "zip of zip-like": zipped(gzip.compress(EVIL)),
    "TorchScript": zipped(b"def forward(self): pass", "archive/code/model.py"),
    "tar": tarred(EVIL),
    "gzip": gzip.compress(EVIL),
    "zlib (joblib)": zlib.compress(EVIL),
    "bzip2": bz2.compress(EVIL),
    "xz": lzma.compress(EVIL),
    "numpy objects": numpy_objects(),
    "extension registry": b"\x80\x02\x82\x01)R.",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["model.bin", "notes.txt", "README.md"])
def test_pickles_are_refused(registry: Registry, tmp_path: Path, shape: str, name: str) -> None:
    (tmp_path / name).write_bytes(SHAPES[shape])
    with pytest.raises(Refused, match="pickle"):
        registry.publish(name="bot", artifact_type="model", files={name: tmp_path / name})
    with pytest.raises(Refused, match="imports"):
        registry.publish(
            name="bot", artifact_type="model", files={name: tmp_path / name}, allow_pickles=True
        )
    assert registry.list() == ()
    assert not Path("/tmp/registry-was-fooled").exists()


def test_names_on_the_stack_are_not_guessed(tmp_path: Path) -> None:
    """A name that something else replaced on the stack must not pass as an allowed one."""
    tricky = (
        b"\x80\x04"
        b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94"  # memo 0 and 1: an allowed pair
        b"00"  # popped
        b"\x8c\x02os\x94\x8c\x06system\x94"
        b"\x93\x8c\x04true\x85R."
    )
    path = tmp_path / "x"
    path.write_bytes(tricky)
    found = find_pickle(path)
    assert found is not None
    assert found.dangerous == ["os system"]
    path.write_bytes(tricky.replace(b"\x93", b"h\x00h\x01}0\x93"))
    found = find_pickle(path)
    assert found is not None
    assert found.dangerous


def test_plain_tensors_pass_with_the_flag_and_never_reach_prod(
    registry: Registry, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(4)}, path)
    with pytest.raises(Refused, match="it is a pickle"):
        registry.publish(name="bot", artifact_type="model", files=path)
    view = registry.publish(name="bot", artifact_type="model", files=path, allow_pickles=True)
    assert view.pickles
    assert registry.manifest(view.manifest).scan.pickles == ["weights.pt"]
    registry.promote("bot", "staging")
    with pytest.raises(Refused, match="pickles"):
        registry.promote("bot", "prod")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello.", b'{"a": 1}', b"I like pickles.\n", b"# Title\n\nText.\n", b"0.5,1\n2,3\n",
        b"import os\nos.system('x')\n",
        b"cat\ndog\n.", b"\x00" * 4096, "Größe".encode(), b"(lp0\n.",
    ],
)  # fmt: skip
def test_harmless_files_pass(registry: Registry, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    assert registry.publish(name="f", artifact_type="model", files=tmp_path / "f").files == 1


def test_random_bytes_are_no_pickles(tmp_path: Path) -> None:
    import random

    source = random.Random(11)
    path = tmp_path / "random"
    found = 0
    for _ in range(3000):
        path.write_bytes(source.randbytes(256))
        found += find_pickle(path) is not None
    assert found <= 1


def test_bombs_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(200 << 20)))
    assert find_pickle(path) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.safetensors", b"not safetensors"),
        ("x.gguf", b"nope"),
        ("x.gguf", b"GGUF\x03"),
        ("x.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1)),
        ("x.gguf", b"GGUF" + struct.pack("<IQQ", 99, 1, 1)),
        ("x", struct.pack("<Q", 10) + b"{bad json}"),
        ("x", struct.pack("<Q", len(HOLE)) + HOLE + bytes(8)),
    ],
)  # fmt: skip
def test_headers_are_parsed(registry: Registry, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput):
        registry.publish(name="f", artifact_type="model", files=tmp_path / name)


def test_opaque_archives(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    with pytest.raises(Refused, match="7z"):
        registry.publish(name="f", artifact_type="model", files=tmp_path / "x")


def test_the_allow_list_has_no_caller() -> None:
    for name in ALLOWED_GLOBALS:
        assert not name.startswith(("os ", "builtins ", "subprocess ", "posix ", "runpy "))
