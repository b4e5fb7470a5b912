"""Names that can't fool a person, a terminal or a file system.

Artifact names, tags and stages are plain ASCII words. File paths inside an artifact may be any
script, but nothing that hides, moves the cursor, leaves the folder, or collides with another name
where case or Unicode form is ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from engine.errors import BadInput, Refused
from engine.registry.layout import MAX_DEPTH

NAME = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$")
TAG = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9_+-])?$")

_MAX_COMPONENT_BYTES = 255
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def check_name(name: str) -> str:
    """``name`` when an artifact may be called so.

    Raises:
        BadInput: anything but 1 to 128 letters, digits, ``-``, ``_`` and inner ``.``.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise BadInput(
            f"{name!r} can't be the name of an artifact",
            why="a name has 1 to 128 letters, digits, '-', '_' and single inner dots",
        )
    return name


def check_tag(tag: str, what: str = "tag") -> str:
    """``tag`` when a tag, version or stage may be called so.

    Raises:
        BadInput: anything but 1 to 64 letters, digits, ``-``, ``_``, ``+`` and inner ``.``.
    """
    if not TAG.fullmatch(tag) or ".." in tag:
        raise BadInput(
            f"{tag!r} can't be a {what}",
            why=f"a {what} has 1 to 64 letters, digits, '-', '_', '+' and inner dots",
        )
    return tag


def check_path(path: str) -> str:
    """``path`` when a file of an artifact may be called so: relative, visible, portable.

    Raises:
        Refused: with the reason.
    """
    reason = _path_reason(path)
    if reason:
        raise Refused(f"the file name {path!r} is refused", why=reason)
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check every path, and that no two are one where case or Unicode form is ignored.

    Raises:
        Refused: a hostile path, a collision, or a file that is also a folder.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path)
        folded = fold(path)
        if folded in seen:
            raise Refused(
                f"the file names {seen[folded]!r} and {path!r} are refused",
                why="they are one name where case or Unicode form is ignored",
            )
        seen[folded] = path
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folders.setdefault(fold(folder), folder) != folder:
                raise Refused(
                    f"the folders {folders[fold(folder)]!r} and {folder!r} are refused",
                    why="they are one name where case or Unicode form is ignored",
                )
    both = sorted(set(seen) & set(folders))
    if both:
        raise Refused(f"{seen[both[0]]!r} is a file and a folder at once")


def fold(text: str) -> str:
    """The form under which two names collide (NFKC, case-folded)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _path_reason(path: str) -> str:
    if not path:
        return "it is empty"
    if path.startswith("/") or re.match(r"^[A-Za-z]:", path):
        return "it is absolute"
    if "\\" in path:
        return "it has a backslash, a separator on other systems"
    for char in path if not path.isascii() or not path.isprintable() else "":
        if unicodedata.category(char) in _HIDDEN:
            return f"it has the invisible or control character U+{ord(char):04X}"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"it is deeper than {MAX_DEPTH} folders"
    for part in parts:
        if part == "":
            return "it has an empty part ('//')"
        if part in (".", ".."):
            return f"it has the part {part!r}"
        if part.endswith((".", " ")) or part.startswith(" "):
            return f"the part {part!r} begins or ends with a space, or ends with a dot"
        if len(part.encode("utf-8", "surrogatepass")) > _MAX_COMPONENT_BYTES:
            return "a part is longer than 255 bytes"
        if part.partition(".")[0].lower() in _DEVICES:
            return f"{part!r} is a device name on other systems"
    return ""
