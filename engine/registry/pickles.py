"""Finding pickles whatever they are called or wrapped in, and reading what they would import.

Nothing is ever unpickled: opcodes are read with ``pickletools``. A file that can't be read to the
end but calls something on the way is a pickle too (the loader would call it before it fails).
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

#: What plain tensors, arrays and containers need; everything else in a pickle is refused.
ALLOWED_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "_codecs encode",
        "numpy dtype",
        "numpy ndarray",
        "numpy.core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
        "numpy._core.multiarray _reconstruct",
        "numpy._core.multiarray scalar",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        *(
            f"torch {kind}Storage"
            for kind in (
                "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long",
                "Short",
            )
        ),
    }
)  # fmt: skip

_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}
#: ``module name``, as an import can find them.
_IMPORTABLE = re.compile(r"[\w.]+ [\w.]+", re.ASCII)
_MAX_OPS = 2_000_000
_WINDOW = 8 << 20
_MAX_MEMBERS = 20_000


@dataclass
class PickleFacts:
    """What a file would do when it is unpickled."""

    imports: set[str] = field(default_factory=set)
    """``module name`` pairs; ``?`` where they are computed."""
    calls: bool = False
    complete: bool = False
    where: str = ""

    @property
    def dangerous(self) -> list[str]:
        """Imports that are not on the allow-list."""
        return sorted(self.imports - ALLOWED_GLOBALS)


def find_pickle(path: Path) -> PickleFacts | None:
    """What the file would do if it is a pickle, an archive or a wrapper with one inside; else None.

    Only the beginning of wrappers is unpacked (8 MiB), so that a bomb costs nothing.
    """
    with open(path, "rb") as file:
        return _look(file, depth=0)


def _look(file: IO[bytes], depth: int) -> PickleFacts | None:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04") and depth == 0:
        return _in_zip(file)
    if head.startswith(b"\x93NUMPY"):
        return _in_npy(file)
    if head[257:262] == b"ustar" and depth <= 1:
        return _in_tar(file)
    unpacked = _unpacked(file, head) if depth < 2 else None
    if unpacked is not None:
        return _look(io.BytesIO(unpacked), depth + 1)
    file.seek(0)
    return read_opcodes(file.read(_WINDOW))


def read_opcodes(data: bytes) -> PickleFacts | None:
    """The imports and calls of a pickle stream; None when it is none.

    Several pickles may follow each other (torch's old format does that); all are read.
    """
    facts = PickleFacts()
    stream = io.BytesIO(data)
    binary = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    while stream.tell() < len(data):
        start = stream.tell()
        if not _one(stream, facts, binary=binary):
            break
        facts.complete = True
        if stream.tell() <= start:
            break
    if facts.imports and facts.calls:
        return facts
    return facts if binary and (facts.complete or facts.imports or facts.calls) else None


def _one(stream: IO[bytes], facts: PickleFacts, *, binary: bool) -> bool:
    """Read one pickle; False when it breaks off."""
    # what the last opcodes pushed: a string, or "?" for anything else, so that a name on the stack
    # is believed only where it was pushed right before it is used
    pushed: list[str] = ["?", "?"]
    memo: dict[int, str] = {}
    stack: list[bool] = []
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if not _step(stack, opcode):
                return False  # a loader stops here, before it calls anything
            if name in ("GLOBAL", "INST"):
                if not _IMPORTABLE.fullmatch(str(argument)):
                    return False  # text that happens to begin like one: no loader can import it
                facts.imports.add(str(argument))
            elif name == "STACK_GLOBAL":
                facts.imports.add(" ".join(pushed[-2:]))
            elif name in _EXTENSIONS and binary:
                facts.imports.add(f"copyreg extension {argument}")
            if name == "MEMOIZE":
                memo[len(memo)] = pushed[-1]
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(str(argument))] = pushed[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                pushed.append(memo.get(int(str(argument)), "?"))
            elif "UNICODE" in name or name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
                pushed.append(str(argument))
            elif name not in ("PROTO", "FRAME"):
                pushed.append("?")
            del pushed[:-2]
            if name in _CALLS:
                facts.calls = True
            if count > _MAX_OPS:
                facts.imports.add("? (too long to read)")
                facts.calls = True
                return False
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, EOFError):
        return False
    return True


def _step(stack: list[bool], opcode: pickletools.OpcodeInfo) -> bool:
    """Follow the loader's stack (True: a mark); False where it would run empty.

    Without it, one random file in some hundred looks like a pickle that calls something.
    """
    before = opcode.stack_before
    if pickletools.markobject in before:
        while stack and not stack[-1]:
            stack.pop()
        if not stack:
            return False
        stack.pop()
        before = before[: before.index(pickletools.markobject)]
    lacking = len(before) > len(stack) or any(stack[len(stack) - len(before) :])
    if lacking and (opcode.name != "POP" or not stack):
        return False
    del stack[len(stack) - len(before) :]
    stack += [item is pickletools.markobject for item in opcode.stack_after]
    return True


def _in_zip(file: IO[bytes]) -> PickleFacts | None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                return PickleFacts({"? (more members than can be read)"}, calls=True)
            for member in members:
                if member.is_dir():
                    continue
                if member.flag_bits & 1:
                    return PickleFacts({"? (encrypted member)"}, True, where=member.filename)
                if "/code/" in f"/{member.filename}" and member.filename.endswith(".py"):
                    return PickleFacts({"TorchScript code"}, True, where=member.filename)
                with archive.open(member) as inner:
                    found = _look(io.BytesIO(inner.read(_WINDOW)), depth=1)
                if found is not None:
                    found.where = member.filename
                    return found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, zlib.error) as error:
        # torch reads some zips that Python's zipfile does not: never taken for harmless
        return PickleFacts({f"? (unreadable zip: {error})"}, calls=True)
    return None


def _in_tar(file: IO[bytes]) -> PickleFacts | None:
    import tarfile

    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count > _MAX_MEMBERS:
                    return PickleFacts({"? (more members than can be read)"}, calls=True)
                inner = archive.extractfile(member) if member.isreg() else None
                found = _look(io.BytesIO(inner.read(_WINDOW)), depth=2) if inner else None
                if found is not None:
                    found.where = member.name
                    return found
    except (tarfile.TarError, OSError, EOFError) as error:
        return PickleFacts({f"? (unreadable tar: {error})"}, calls=True)
    return None


def _in_npy(file: IO[bytes]) -> PickleFacts | None:
    file.seek(6)
    major = file.read(2)[:1]
    size = int.from_bytes(file.read(2 if major == b"\x01" else 4), "little")
    header = file.read(min(size, 65536))
    if b"'|O'" in header or b'"|O"' in header or b"'O'" in header:
        return read_opcodes(file.read(_WINDOW)) or PickleFacts({"numpy object array"}, calls=True)
    return None


def _unpacked(file: IO[bytes], head: bytes) -> bytes | None:
    for make in _decompressors(head):
        try:
            out = make(file.read(_WINDOW))
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            file.seek(0)
            continue
        if out:
            return out
        file.seek(0)
    return None


def _decompressors(head: bytes) -> Iterator[Callable[[bytes], bytes]]:
    if head.startswith(b"\x1f\x8b"):
        yield lambda data: zlib.decompressobj(31).decompress(data, _WINDOW)
    if head[:1] == b"\x78" and len(head) > 1 and (0x7800 + head[1]) % 31 == 0:
        yield lambda data: zlib.decompressobj(15).decompress(data, _WINDOW)
    if head.startswith(b"BZh"):
        yield lambda data: bz2.BZ2Decompressor().decompress(data, _WINDOW)
    if head.startswith(b"\xfd7zXZ\x00") or head.startswith(b"\x5d\x00\x00"):
        yield lambda data: lzma.LZMADecompressor().decompress(data, _WINDOW)
