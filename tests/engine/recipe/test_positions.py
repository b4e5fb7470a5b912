"""The position finder against tomllib: same paths, and each span holds its own value."""

from __future__ import annotations

import string
import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recipe.positions import find_positions

TEXT = (
    """# a comment with = and [brackets]
recipe = 1
"quoted key" = 'it"""
    + """'
a.b."c d".e = { x = 1, y.z = [1, 2, { q = "]}" }] } # trailing
many = [
  1, # one
  "two, three",
  [4, 5],
]

[table . "sub.with dot"]
multi = \"\"\"
line = "one"
[not.a.table]
\\"""
    + '''"""still""""
lit = \'\'\'
raw '' = 2\'\'\'
when = 1979-05-27 07:32:00
schlüssel_x = 1_000

[[items]]
name = "first"
[items.deep]
v = true

[[items]]
name = "zweite 日本"
deep.v = false
'''
)


def paths_of(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [at] if at else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths_of(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths_of(item, (*at, index))
    return found


def value_at(document: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def check_all(text: str) -> None:
    document = tomllib.loads(text)
    positions = find_positions(text)
    for path in paths_of(document):
        assert positions.has(path), path
        value = value_at(document, path)
        span = positions.values.get(path)
        if isinstance(value, dict) and (span is None or text[span.start] != "{"):
            continue  # a table by header or dotted keys has no text of its own
        if isinstance(value, list) and (span is None or text.startswith("[[", span.start)):
            continue
        assert span is not None, path
        assert tomllib.loads(f"v = {text[span.start : span.end]}")["v"] == value, path
    for path, span in positions.keys.items():
        if isinstance(path[-1], str):
            # the key's own text parses back to the key
            document = tomllib.loads(f"{text[span.start : span.end]} = 1")
            assert list(document) == [path[-1]]
    assert set(positions.keys) <= set(paths_of(tomllib.loads(text)))


def test_every_path_of_a_hard_document() -> None:
    text = TEXT.replace("schlüssel_x", '"schlüssel x"')
    check_all(text)
    positions = find_positions(text)
    span = positions.values[("items", 1, "name")]
    assert positions.line_column(span.start) == (27, 8)
    assert positions.line_text(27) == 'name = "zweite 日本"'
    inner = positions.values[("a", "b", "c d", "e", "y", "z", 2, "q")]
    assert text[inner.start : inner.end] == '"]}"'


def test_crlf_lines_count_like_others() -> None:
    positions = find_positions('a = 1\r\nb = "x"\r\n')
    assert positions.line_column(positions.values[("b",)].start) == (2, 5)
    assert positions.line_text(2) == 'b = "x"'


@pytest.mark.parametrize(
    "text", ["", "# only\n", "\n\n", "a=1", "[t]", "a = []\nb = {}", "x = '''\n'''"]
)
def test_small_documents(text: str) -> None:
    check_all(text)


KEYS = st.text(string.ascii_letters + string.digits + " .-_\"'é\\=#[]", min_size=1, max_size=8)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20),
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS)
def test_any_document_tomlkit_writes(document: dict[str, Any]) -> None:
    text = tomlkit.dumps(document)
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # tomlkit wrote something tomllib refuses: recipes are parsed by tomllib
    del read
    check_all(text)
