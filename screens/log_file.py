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

HOLE = "[... a part of the log was dropped here to save space ...]"


class LogFile:
    """Index and reader of one growing file. ``scan`` may run in a thread; reading may go on."""

    def __init__(self, path: Path, fold: int = LINE_CAP) -> None:
        self.path = path
        self.fold = fold
        self._starts = array("Q", [])
        self._scanned = 0
        self._open_line = False
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
            end = data.find(b"\n", place)
            stop = len(data) if end < 0 else end
            if data[place] == 0:
                stop = self._past_hole(data, place, stop, base)
            self._fold(base + place if not self._open_line else starts[-1], base + stop, data, base)
            self._open_line = end < 0
            place = stop + 1 if end >= 0 else len(data)

    def _past_hole(self, data: bytes, place: int, stop: int, base: int) -> int:
        rest = data[place:stop].lstrip(b"\0")
        text_at = stop - len(rest)
        if rest and text_at > place:
            self._starts.append(base + text_at)
        return stop

    def _fold(self, start: int, stop: int, data: bytes, base: int) -> None:
        """Cut what is longer than the fold, never inside of a UTF-8 sequence."""
        place = start
        if place >= base and data[place - base : place - base + 1] == b"\0":
            return
        while stop - place > self.fold:
            place += self.fold
            for _ in range(3):
                offset = place - base
                if 0 <= offset < len(data) and data[offset] & 0xC0 == 0x80:
                    place -= 1
            if place > self._starts[-1]:
                self._starts.append(place)


def _decoded(raw: bytes) -> str:
    raw = raw.rstrip(b"\r\n")
    if raw.startswith(b"\0"):
        rest = raw.lstrip(b"\0")
        return HOLE if not rest else printable(rest.decode("utf-8", "replace"))
    raw = raw.rpartition(b"\r")[2]
    return printable(_without_escapes(raw.decode("utf-8", "replace")))


def _without_escapes(text: str) -> str:
    if "\x1b" not in text:
        return text
    import re

    return re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])", "", text)
