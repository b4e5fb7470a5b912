"""Files to text: PDF, office documents, HTML, Markdown, plain text and code.

A file that can't be read raises :class:`Unreadable` with a reason a person can act on; a sync lists
and goes on. Encodings: a byte order mark, strict UTF-8, then cp1252 with a warning, no guesses.
"""

from __future__ import annotations

import codecs
import logging
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from engine.plugins import extensions

OFFICE = {".docx", ".pptx", ".xlsx"}
HTML = {".html", ".htm", ".xhtml"}
MARKDOWN = {".md", ".markdown", ".mdx", ".rst", ".txt", ""}
MEDIA = {
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".svg", ".mp3",
    ".wav", ".flac", ".ogg", ".mp4", ".mkv", ".mov", ".avi", ".zip", ".gz", ".xz", ".bz2", ".zst",
    ".tar", ".7z", ".so", ".o", ".a", ".pyc", ".exe", ".dll", ".bin", ".safetensors", ".gguf",
    ".parquet", ".arrow", ".lance", ".db", ".sqlite", ".woff", ".woff2", ".ttf", ".otf", ".lock",
}  # fmt: skip
MAX_FILE_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 512 << 20
MAX_PAGES = 5_000
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unreadable(Exception):
    """A file gives no text; the message is the reason shown in the report."""


@dataclass(frozen=True)
class Document:
    """The text of one file; offsets of chunks count its characters."""

    text: str
    title: str
    markdown: bool = True
    date: datetime | None = None
    tags: tuple[str, ...] = ()
    warning: str = ""


def read_document(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Document:
    """Read one file.

    Raises:
        Unreadable: empty, binary, encrypted, truncated, scanned, too large, or not permitted.
    """
    suffix = path.suffix.lower()
    try:
        size = path.stat().st_size
        if size == 0:
            raise Unreadable("empty file")
        if size > max_bytes:
            raise Unreadable(f"too large: {size >> 20} MiB, the limit is {max_bytes >> 20} MiB")
        plugged = plugin_readers().get(suffix)
        if plugged is not None:
            return _plugged(path, *plugged)
        if suffix in MEDIA:
            raise Unreadable(f"not a document ({suffix})")
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"%PDF") or suffix == ".pdf":
            document = _pdf(path)
        elif suffix in OFFICE:
            document = _office(path)
        else:
            document = _textual(path.read_bytes(), path, html=suffix in HTML)
    except PermissionError as error:
        raise Unreadable("no permission to read it") from error
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror or error}") from error
    if not document.text.strip():
        raise Unreadable("no text in it")
    return document


@cache
def plugin_readers() -> dict[str, tuple[str, Callable[[Path], Any]]]:
    """Suffix -> (name, function) of the readers that plugins bring; they win over ours."""
    found: dict[str, tuple[str, Callable[[Path], Any]]] = {}
    for name, reader in sorted(extensions("reader").objects.items()):
        for suffix in reader.suffixes:
            found.setdefault(str(suffix).lower(), (name, reader))
    return found


def _plugged(path: Path, name: str, reader: Callable[[Path], Any]) -> Document:
    try:
        read = reader(path)
    except Exception as error:
        raise Unreadable(f"the reader {name}: {type(error).__name__}: {error}") from error
    title = path.stem.replace("_", " ").replace("-", " ")
    document = read if isinstance(read, Document) else Document(str(read), title)
    if not document.text.strip():
        raise Unreadable(f"the reader {name} found no text in it")
    return document


# -- text -----------------------------------------------------------------------------------------


def decode(data: bytes) -> tuple[str, str]:
    """(text, warning) of bytes.

    Raises:
        Unreadable: more than 1 % control characters: binary.
    """
    warning = ""
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "")
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise Unreadable(f"broken {encoding} text at byte {error.start}") from error
        text = data.decode("cp1252", errors="replace")
        warning = f"not UTF-8 (byte {error.start}): read as cp1252"
    sample = text[: 1 << 20]
    if len(_CONTROL.findall(sample)) > max(len(sample) // 100, 0):
        raise Unreadable("binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n"), warning


def _textual(data: bytes, path: Path, *, html: bool) -> Document:
    text, warning = decode(data)
    if html:
        return _html(text, path, warning)
    markdown = path.suffix.lower() in MARKDOWN
    title = ""
    date: datetime | None = None
    tags: tuple[str, ...] = ()
    front = _FRONT.match(text) if markdown else None
    if front:
        title, date, tags = _front_matter(front[1])
        # blanked, not cut: offsets keep counting the file's own characters
        text = re.sub(r"[^\n]", " ", front[0]) + text[front.end() :]
    if not title and markdown:
        heading = re.search(r"^# +(.+?) *#*$", text, re.MULTILINE)
        title = heading[1] if heading else ""
    title = title or path.stem.replace("_", " ").replace("-", " ")
    return Document(text, title, markdown, date, tags, warning)


def _front_matter(block: str) -> tuple[str, datetime | None, tuple[str, ...]]:
    """Title, date and tags of a YAML header: flat keys only, nothing is evaluated."""
    fields: dict[str, list[str]] = {}
    last = ""
    for line in block.splitlines():
        item = re.match(r"\s+-\s+(.+)|-\s+(.+)", line)
        pair = re.match(r"([A-Za-z_]+):\s*(.*)", line)
        if item and last:
            fields[last].append((item[1] or item[2]).strip(" \"'"))
        elif pair:
            last = pair[1].lower()
            values = pair[2].strip()
            parts = values[1:-1].split(",") if values.startswith("[") else [values]
            fields[last] = [p.strip(" \"'") for p in parts if p.strip(" \"'")]
    title = fields.get("title", [""])[0] if fields.get("title") else ""
    return title, _date(next(iter(fields.get("date", [])), "")), tuple(fields.get("tags", []))


def _date(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _html(text: str, path: Path, warning: str) -> Document:
    import trafilatura  # 0.4 CPU-s

    _quiet("trafilatura")
    found = trafilatura.extract(
        text, output_format="markdown", include_tables=True, include_comments=False
    )
    heading = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    title = re.sub(r"\s+", " ", heading[1]).strip() if heading else path.stem
    if not found:
        import html as entities

        bare = re.sub(r"(?is)<(script|style|template)\b.*?</\1\s*>", " ", text)
        found = entities.unescape(re.sub(r"<[^>]*>", " ", bare))
        found = re.sub(r"[ \t]+", " ", found).strip()
    return Document(found or "", entities_free(title), warning=warning)


def entities_free(text: str) -> str:
    """``&amp;`` and its like as characters."""
    import html as entities

    return entities.unescape(text)


def _quiet(name: str) -> None:
    logging.getLogger(name).setLevel(logging.CRITICAL)


# -- PDF and office -------------------------------------------------------------------------------


def _pdf(path: Path) -> Document:
    import pypdfium2 as pdfium

    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        reason = str(error)
        if "password" in reason.lower() or "security" in reason.lower():
            raise Unreadable("encrypted: it asks for a password") from error
        raise Unreadable(f"damaged or truncated PDF ({reason})") from error
    try:
        pages = []
        for number in range(min(len(document), MAX_PAGES)):
            page = document[number]
            text_page = page.get_textpage()
            pages.append(text_page.get_text_bounded())
            text_page.close()
            page.close()
        title = str(document.get_metadata_dict().get("Title") or "")
        total = len(document)
    except pdfium.PdfiumError as error:
        raise Unreadable(f"damaged PDF ({error})") from error
    finally:
        document.close()
    text = "\n\n".join(pages).replace("\r\n", "\n").replace("\r", "\n").replace("\x02", "")
    if not text.strip():
        raise Unreadable(f"scanned: {total} pages without text; run it through OCR first")
    empty = sum(1 for page in pages if not page.strip())
    notes = [f"{empty} of {total} pages have no text"] if empty else []
    if total > MAX_PAGES:
        notes.append(f"only the first {MAX_PAGES} of {total} pages were read")
    return Document(text, title.strip() or path.stem, markdown=False, warning="; ".join(notes))


def _office(path: Path) -> Document:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(i.file_size for i in archive.infolist())
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            old = file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        # an encrypted .docx is an OLE container
        raise Unreadable("encrypted or an old binary format" if old else "damaged file") from error
    if unpacked > MAX_UNPACKED_BYTES:
        raise Unreadable(f"unpacks to {unpacked >> 20} MiB, more than is safe")
    from markitdown import MarkItDown  # 1.5 CPU-s

    try:
        found = MarkItDown(enable_plugins=False).convert(str(path))
    except Exception as error:  # a converter may raise anything on a damaged file
        raise Unreadable(f"damaged file ({type(error).__name__})") from error
    return Document(found.text_content, found.title or path.stem)
