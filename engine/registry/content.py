"""What a file is, told by its bytes and never by its name; headers are parsed within bounds."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput, Refused
from engine.registry.documents import Scan
from engine.registry.pickles import PickleFacts, find_pickle

_MAX_SAFETENSORS_HEADER = 100 << 20
_MAX_GGUF_COUNT = 1_000_000
_OPAQUE = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
}
_TEXT = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".toml": "application/toml",
    ".jinja": "text/plain",
    ".csv": "text/csv",
}


@dataclass(frozen=True)
class Content:
    """What a file's bytes say it is."""

    media_type: str
    pickle: PickleFacts | None = None


def look(path: Path, name: str) -> Content:
    """Tell a file's kind.

    Args:
        path: the bytes.
        name: its name in the artifact; only tells kinds of text apart.

    Raises:
        BadInput: it claims by its magic to be safetensors or GGUF and its header does not hold.
        Refused: an archive that can't be looked into.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    if head.startswith(b"GGUF"):
        _check_gguf(head, size, name)
        return Content("application/vnd.gguf")
    if _is_safetensors(head, size):
        check_safetensors(path, name)
        return Content("application/vnd.safetensors")
    if head.startswith(b"PAR1"):
        return Content("application/vnd.apache.parquet")
    for magic, what in _OPAQUE.items():
        if head.startswith(magic):
            raise Refused(f"{name} is refused", why=f"it is {what}: nobody can look inside it")
    facts = find_pickle(path)
    if facts is not None:
        return Content("application/x-pickle", facts)
    suffix = Path(name).suffix.lower()
    if suffix == ".safetensors" or suffix == ".gguf":
        raise BadInput(f"{name} is no {suffix[1:]} file", why="its first bytes say otherwise")
    return Content(_TEXT.get(suffix, "application/octet-stream"))


def scan(found: Iterable[tuple[str, Content]], *, allow_pickles: bool) -> Scan:
    """The verdict over an artifact's files.

    Raises:
        Refused: a pickle without the flag, or one that imports what is not on the allow-list.
    """
    pickles = [(name, content.pickle) for name, content in found if content.pickle is not None]
    if not pickles:
        return Scan(verdict="clean", scanner="modelops pickletools")
    for name, facts in pickles:
        inside = f" ({facts.where})" if facts.where else ""
        if not allow_pickles:
            raise Refused(
                f"{name} is refused",
                why=f"it is a pickle{inside}: loading it runs whatever code is inside",
                hint="convert it to safetensors (--allow-pickles: plain tensors, never to prod)",
            )
        if facts.dangerous:
            raise Refused(
                f"{name} is refused",
                why=f"its pickle{inside} imports {', '.join(facts.dangerous[:5])}, "
                "which plain tensors do not need",
                hint="do not load this file anywhere; report it where you got it",
            )
    return Scan(
        verdict="pickles",
        pickles=sorted(name for name, _ in pickles),
        scanner="modelops pickletools",
    )


def _is_safetensors(head: bytes, size: int) -> bool:
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = struct.unpack("<Q", head[:8])[0]
    return bool(2 <= length <= size - 8)


def check_safetensors(path: Path, name: str) -> dict[str, Any]:
    """Parse the header of a safetensors file.

    Returns:
        Its metadata (without the tensors).

    Raises:
        BadInput: too large, not JSON, or tensors that overlap, leave holes or leave the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, _MAX_SAFETENSORS_HEADER):
            raise BadInput(f"{name} is no safetensors file", why=f"a header of {length} bytes")
        try:
            header = json.loads(file.read(length))
            spans = sorted(
                tuple(int(n) for n in entry["data_offsets"])
                for key, entry in header.items()
                if key != "__metadata__"
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(f"{name} is no safetensors file", why=f"its header: {error}") from error
    end = 0
    for span in spans:
        if len(span) != 2 or span[0] != end or span[1] < span[0]:
            raise BadInput(
                f"{name} is damaged", why="its tensors overlap or leave holes in the file"
            )
        end = span[1]
    if end != size - 8 - length:
        raise BadInput(
            f"{name} is damaged", why=f"its tensors end at {end}, the file at {size - 8 - length}"
        )
    metadata: dict[str, Any] = header.get("__metadata__") or {}
    return metadata


def _check_gguf(head: bytes, size: int, name: str) -> None:
    if len(head) < 24:
        raise BadInput(f"{name} is no GGUF file", why="it ends inside its header")
    version, tensors, pairs = struct.unpack("<IQQ", head[4:24])
    if version not in (2, 3):
        raise BadInput(f"{name} is no GGUF file we read", why=f"its version is {version}")
    if max(tensors, pairs) > _MAX_GGUF_COUNT or (tensors + pairs) * 8 > size:
        raise BadInput(
            f"{name} is damaged", why=f"its header claims {tensors} tensors and {pairs} keys"
        )
