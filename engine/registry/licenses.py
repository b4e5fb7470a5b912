"""SPDX licence identifiers: normalised, combined along the lineage, and what they ask."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.errors import BadInput

_KNOWN = (
    "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0",
    "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2",
    "GFDL-1.3-only", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later",
    "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT",
    "MIT-0", "MPL-2.0", "MS-PL", "NCSA", "ODbL-1.0", "ODC-By-1.0", "OFL-1.1", "OSL-3.0",
    "PDDL-1.0", "PostgreSQL", "Python-2.0", "Unlicense", "WTFPL", "Zlib",
)  # fmt: skip
_BY_LOWER = {name.lower(): name for name in _KNOWN}
#: The hub's own spellings.
_ALIASES = {
    "apache": "Apache-2.0", "apache2": "Apache-2.0", "bsd": "BSD-3-Clause",
    "gpl-3.0": "GPL-3.0-only", "gpl-2.0": "GPL-2.0-only", "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only", "cc": "CC-BY-4.0", "gpl": "GPL-3.0-only",
}  # fmt: skip
_REFERENCE = re.compile(r"^LicenseRef-[A-Za-z0-9.-]{1,64}$")
_OPERATORS = {"AND", "OR", "WITH"}
_SHARE_ALIKE = re.compile(r"^(A?GPL|LGPL|CC-BY-SA|CC-BY-NC-SA|ODbL|CDLA-Sharing|OSL|EUPL)")
_NON_COMMERCIAL = re.compile(r"-NC(-|$)|LicenseRef-.*(non-?commercial|research)", re.IGNORECASE)


def normalise(text: str) -> str:
    """A licence expression in SPDX spelling; a word SPDX does not know becomes ``LicenseRef-…``.

    Raises:
        BadInput: it is no licence expression.
    """
    words = re.findall(r"[()]|[^\s()]+", text.strip())
    if not words or len(text) > 256:
        raise BadInput(f"{text!r} is no licence", hint="an SPDX id such as Apache-2.0 or MIT")
    return " ".join(_word(word, text) for word in words).replace("( ", "(").replace(" )", ")")


def _word(word: str, text: str) -> str:
    if word in "()" or word.upper() in _OPERATORS:
        return word.upper()
    plus = word.endswith("+")
    bare = word.rstrip("+").lower()
    if bare in _BY_LOWER:
        return _BY_LOWER[bare] + ("+" if plus else "")
    if bare in _ALIASES:
        return _ALIASES[bare]
    if _REFERENCE.fullmatch(word):
        return word
    safe = re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-.")
    if not safe:
        raise BadInput(f"{text!r} is no licence", hint="an SPDX id such as Apache-2.0 or MIT")
    return f"LicenseRef-{safe[:64]}"


def parts(expression: str) -> list[str]:
    """The licences of an expression, without its operators."""
    tokens = re.findall(r"[^\s()]+", expression)
    return [t for t in tokens if t not in _OPERATORS]


def inherited(expressions: Iterable[str | None]) -> str | None:
    """What applies to something made from parents under these licences: all of them."""
    found: list[str] = []
    for expression in expressions:
        if expression and expression not in found:
            found.append(expression)
    if not found:
        return None
    return " AND ".join(f"({e})" if len(found) > 1 and " OR " in e else e for e in found)


def conflicts(own: str | None, parents: Iterable[str | None]) -> list[str]:
    """What the parents' licences ask that ``own`` does not say, in words."""
    mine = set(parts(own or ""))
    notes = []
    for expression in parents:
        for part in parts(expression or ""):
            if part in mine:
                continue
            if _SHARE_ALIKE.match(part):
                notes.append(f"a parent is under {part}, which asks for the same licence")
            elif _NON_COMMERCIAL.search(part):
                notes.append(f"a parent is under {part}, which forbids commercial use")
    return sorted(set(notes))
