"""A GGUF file's metadata and tensor shapes in 0.1 s, where the ``gguf`` package takes 2 s.

Only what a check needs: values of arrays (vocabularies) are skipped, their lengths kept.
Format: the GGUF specification, versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BadInput

#: GGUF value types: struct format and size.
_SCALARS = {
    0: ("<B", 1),
    1: ("<b", 1),
    2: ("<H", 2),
    3: ("<h", 2),
    4: ("<I", 4),
    5: ("<i", 4),
    6: ("<f", 4),
    7: ("<?", 1),
    10: ("<Q", 8),
    11: ("<q", 8),
    12: ("<d", 8),
}
_STRING, _ARRAY = 8, 9
_MAX_COUNT = 1 << 32


@dataclass(frozen=True)
class GgufHeader:
    """``metadata`` holds scalars, texts, and the lengths of arrays; shapes are as in torch."""

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tensor -> its GGML type, and where in the file its bytes begin."""


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, kind: int) -> Any:
        code, size = _SCALARS[kind]
        (value,) = struct.unpack_from(code, self.data, self.at)
        self.at += size
        return value

    def text(self) -> str:
        size = self.scalar(10)
        if size > len(self.data) - self.at:
            raise ValueError(f"a text of {size} bytes at position {self.at}")
        value = self.data[self.at : self.at + size].decode("utf-8", "replace")
        self.at += size
        return value

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(kind)
        item, count = self.scalar(4), self.scalar(10)
        if count > _MAX_COUNT:
            raise ValueError(f"an array of {count} items")
        if item == _STRING:
            unpack, data, at = struct.Struct("<Q").unpack_from, self.data, self.at
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self.at = at
        elif item in _SCALARS:
            self.at += count * _SCALARS[item][1]
        else:
            for _ in range(count):
                self.value(item)
        return count


@lru_cache(maxsize=8)
def read_gguf_header(path: Path) -> GgufHeader:
    """Metadata and shapes of a GGUF file.

    Raises:
        BadInput: it is no GGUF file, or a damaged one.
    """
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            reader = _Reader(data)
            if data[:4] != b"GGUF":
                raise ValueError(f"it begins with {data[:4]!r}")
            reader.at = 4
            version, tensors, entries = (reader.scalar(kind) for kind in (4, 10, 10))
            if version not in (2, 3) or tensors > _MAX_COUNT or entries > _MAX_COUNT:
                raise ValueError(f"version {version}, {tensors} tensors, {entries} entries")
            metadata = {}
            for _ in range(entries):
                key = reader.text()
                metadata[key] = reader.value(reader.scalar(4))
            shapes, places = {}, {}
            for _ in range(tensors):
                name = reader.text()
                sizes = [reader.scalar(10) for _ in range(reader.scalar(4))]
                places[name] = (reader.scalar(4), reader.scalar(10))
                # GGUF lists the fastest dimension first
                shapes[name] = tuple(reversed(sizes))
            step = int(metadata.get("general.alignment", 32)) or 32
            begin = -(-reader.at // step) * step
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise BadInput(f"{path} is no readable GGUF file", why=str(error)) from error
    return GgufHeader(metadata, shapes, {n: (t, begin + at) for n, (t, at) in places.items()})
