from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from recipes.rag.readers import Unreadable, decode, read_document


def pdf(text: str) -> bytes:
    """A one-page PDF, written by hand: offsets right, so that nothing has to repair it."""
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    return out + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


def reason(path: Path, **options: int) -> str:
    with pytest.raises(Unreadable) as caught:
        read_document(path, **options)
    return str(caught.value)


def write(tmp_path: Path, name: str, data: bytes) -> Path:
    file = tmp_path / name
    file.write_bytes(data)
    return file


def test_pdf_text(tmp_path: Path) -> None:
    assert "Hello index" in read_document(write(tmp_path, "a.pdf", pdf("Hello index"))).text


def test_a_pdf_without_text_is_called_scanned(tmp_path: Path) -> None:
    assert "scanned" in reason(write(tmp_path, "a.pdf", pdf("")))


def test_a_truncated_pdf_is_damaged(tmp_path: Path) -> None:
    assert "damaged" in reason(write(tmp_path, "a.pdf", pdf("x")[:60]))


def test_an_encrypted_pdf_asks_for_a_password(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter(clone_from=write(tmp_path, "plain.pdf", pdf("secret")))
    writer.encrypt("key", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    assert "password" in reason(tmp_path / "locked.pdf")


def test_docx_becomes_markdown(tmp_path: Path) -> None:
    body = (
        '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/'
        'wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>Words in a document.</w:t></w:r></w:p>'
        "</w:body></w:document>"
    )
    types = (
        '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        'content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-'
        'package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-'
        'officedocument.wordprocessingml.document.main+xml"/></Types>'
    )
    rels = (
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/'
        '2006/relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>'
        "</Relationships>"
    )
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", rels)
        archive.writestr("word/document.xml", body)
    assert "Words in a document." in read_document(tmp_path / "a.docx").text


def test_office_bombs_and_old_formats_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.rag.readers.MAX_UNPACKED_BYTES", 4 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (6 << 20))
    assert "unpacks to 6 MiB" in reason(tmp_path / "bomb.docx")
    old = write(tmp_path, "b.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 100)
    assert "encrypted" in reason(old)
    assert "damaged" in reason(write(tmp_path, "c.docx", b"PKxx"))


def test_html_keeps_the_article_and_the_title(tmp_path: Path) -> None:
    page = (
        "<html><head><title>Birds &amp; ice</title><script>var hidden = 1;</script></head><body>"
        "<p>A page about penguins and their long winter walks over the ice.</p></body></html>"
    )
    document = read_document(write(tmp_path, "a.html", page.encode()))
    assert document.title == "Birds & ice"
    assert "penguins" in document.text
    assert "hidden" not in document.text


@pytest.mark.parametrize(
    ("data", "text", "warned"),
    [
        ("Grüße".encode(), "Grüße", False),
        ("Grüße".encode("utf-8-sig"), "Grüße", False),
        ("Grüße".encode("utf-16"), "Grüße", False),
        ("Grüße".encode("cp1252"), "Grüße", True),
        (b"a\r\nb\rc", "a\nb\nc", False),
    ],
)
def test_encodings(data: bytes, text: str, warned: bool) -> None:
    assert decode(data)[0] == text
    assert bool(decode(data)[1]) is warned


def test_binary_empty_large_and_media(tmp_path: Path) -> None:
    assert "binary" in reason(write(tmp_path, "a.dat", bytes(range(256)) * 8))
    assert "empty" in reason(write(tmp_path, "b.txt", b""))
    assert "no text" in reason(write(tmp_path, "c.txt", b" \n "))
    assert "too large" in reason(write(tmp_path, "d.txt", b"x" * 2000), max_bytes=1000)
    assert "not a document" in reason(write(tmp_path, "e.png", b"\x89PNG"))


def test_front_matter_gives_title_date_and_tags_and_keeps_offsets(tmp_path: Path) -> None:
    raw = "---\ntitle: My page\ndate: 2021-02-03\ntags: [a, b]\n---\n# Head\n\nBody.\n"
    document = read_document(write(tmp_path, "a.md", raw.encode()))
    assert (document.title, document.tags) == ("My page", ("a", "b"))
    assert document.date is not None
    assert document.date.date().isoformat() == "2021-02-03"
    assert document.text.index("Body.") == raw.index("Body.")
