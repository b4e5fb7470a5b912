"""A log seen by byte offsets: an index of where lines start, never the log itself in memory.

Lines end at LF. What a carriage return would have overwritten is not shown, lines beyond
``LINE_CAP`` bytes are cut into several, and NUL bytes (the hole that a cap punched into a long log)
become one line that says so.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from pathlib import Path

from screens.text import printable

#: Bytes read at once while indexing: one read takes about a millisecond.
CHUNK = 1 << 20
#: A longer line is shown as several.
LINE_CAP = 4096
_CACHED_LINES = 512

#: This many NUL bytes in a row are a hole, fewer are garbage of the log itself.
_NULS = b"\0" * 64

HOLE = "[... a part of the log was dropped here to save space ...]"


class LogFile:
    """Index and reader of one growing file. ``scan`` may run in a thread; reading may go on."""

    def __init__(self, path: Path, fold: int = LINE_CAP) -> None:
        self.path = path
        self.fold = fold
        self._starts = array("Q", [])
        self._scanned = 0
        self._open_line = False
        self._in_hole = False
        self._identity: tuple[int, int] | None = None
        self._cache: OrderedDict[int, str] = OrderedDict()
        self._fd = -1
        self.gone = False

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def scanned(self) -> int:
        """Bytes indexed so far."""
        return self._scanned

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def scan(self) -> bool:
        """Index at most one chunk more; True where there is still more to index."""
        if not self._open():
            return False
        size = os.fstat(self._fd).st_size
        if size < self._scanned:
            self._reset()
        data = os.pread(self._fd, CHUNK, self._scanned)
        if not data:
            return False
        self._index(data, self._scanned)
        self._scanned += len(data)
        return self._scanned < size

    def changed(self) -> bool:
        """Whether there is something to index (one ``stat``)."""
        try:
            status = os.stat(self.path)
        except OSError:
            missing = not self.gone and self._identity is not None
            self.gone = True
            return missing
        return (status.st_dev, status.st_ino) != self._identity or status.st_size != self._scanned

    def line(self, number: int) -> str:
        """The text of one line, made printable."""
        cached = self._cache.get(number)
        if cached is not None:
            self._cache.move_to_end(number)
            return cached
        if not 0 <= number < len(self._starts) or self._fd < 0:
            return ""
        start = self._starts[number]
        last = number + 1 >= len(self._starts)
        end = self._scanned if last else self._starts[number + 1]
        text = _decoded(os.pread(self._fd, min(end - start, 4 * LINE_CAP), start))
        if not last:
            self._cache[number] = text
            if len(self._cache) > _CACHED_LINES:
                self._cache.popitem(last=False)
        return text

    def find(self, pattern: str, start: int, step: int) -> int:
        """The nearest line from ``start`` (exclusive) in the direction of ``step``; -1 for none."""
        wanted = pattern.lower()
        count = len(self)
        for distance in range(1, count + 1):
            number = (start + step * distance) % count
            raw = self.line(number)
            if wanted in raw.lower():
                return number
        return -1

    # -- inside -----------------------------------------------------------------------------------

    def _open(self) -> bool:
        try:
            status = os.stat(self.path)
        except OSError:
            self.gone = self._identity is not None
            return self._fd >= 0 and not self.gone
        identity = (status.st_dev, status.st_ino)
        if identity != self._identity:
            self.close()
            self._reset()
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
            self._identity = identity
        self.gone = False
        return True

    def _reset(self) -> None:
        self._starts = array("Q", [])
        self._scanned = 0
        self._open_line = False
        self._cache.clear()

    def _index(self, data: bytes, base: int) -> None:
        starts = self._starts
        place = 0
        while place < len(data):
            if not self._open_line:
                starts.append(base + place)
                self._open_line, self._in_hole = True, False
            if self._hole_at(data, place):
                place = self._past_hole(data, place, base)
                continue
            if self._in_hole and data[place] != 0x0A:
                starts.append(base + place)
            self._in_hole = False
            place = self._take_line(data, place, base)

    def _hole_at(self, data: bytes, place: int) -> bool:
        if data[place] != 0:
            return False
        return self._in_hole or data.startswith(_NULS, place)

    def _past_hole(self, data: bytes, place: int, base: int) -> int:
        """The hole's own row begins here, unless it began before."""
        if not self._in_hole and self._starts[-1] != base + place:
            self._starts.append(base + place)
        self._in_hole = True
        return len(data) - len(data[place:].lstrip(b"\0"))

    def _take_line(self, data: bytes, place: int, base: int) -> int:
        """Index up to the end of the line, of the data, or to a hole; returns where that is."""
        end = data.find(b"\n", place)
        stop = len(data) if end < 0 else end
        if stop - place > len(_NULS):
            hole = data.find(_NULS, place, stop)
            if hole >= 0:
                stop, end = hole, -1
        self._cut(base + stop, data, base)
        if end >= 0:
            self._open_line = False
            return stop + 1
        return stop

    def _cut(self, stop: int, data: bytes, base: int) -> None:
        """Begin further rows where the open one is longer than the fold, between characters."""
        starts = self._starts
        while stop - starts[-1] > self.fold:
            place = starts[-1] + self.fold
            for _ in range(3):
                offset = place - base
                if 0 < offset < len(data) and data[offset] & 0xC0 == 0x80:
                    place -= 1
            starts.append(place)


def _decoded(raw: bytes) -> str:
    raw = raw.rstrip(b"\r\n")
    if raw.startswith(_NULS):
        return HOLE
    raw = raw.rpartition(b"\r")[2]
    return printable(_without_escapes(raw.decode("utf-8", "replace")))


def _without_escapes(text: str) -> str:
    if "\x1b" not in text:
        return text
    import re

    return re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])", "", text)
