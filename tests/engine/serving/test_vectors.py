"""Vectors in OpenAI's shape."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

from engine.serving.vectors import one_vector_a_text


def answer(*vectors: Any) -> bytes:
    rows = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": rows}).encode()


def vectors(body: bytes) -> list[Any]:
    return [row["embedding"] for row in json.loads(body)["data"]]


def test_vectors_of_tokens_become_one_of_length_one() -> None:
    one, two = vectors(
        one_vector_a_text(answer([[3.0, 0.0], [3.0, 8.0]], [[0.0, 0.0]]), encoding="float")
    )
    assert one == [0.6, 0.8]
    assert math.hypot(*one) == 1.0
    # nothing to bring to a length
    assert two == [0.0, 0.0]


def test_one_vector_a_text_is_left_as_it_is() -> None:
    assert vectors(one_vector_a_text(answer([3.0, 4.0]), encoding="float")) == [[3.0, 4.0]]


def test_base64_is_little_endian_float32() -> None:
    (text,) = vectors(one_vector_a_text(answer([[0.5, 0.0], [0.5, 0.0]]), encoding="base64"))
    assert struct.unpack("<2f", base64.b64decode(text)) == (1.0, 0.0)
    # a server that did it itself
    assert vectors(one_vector_a_text(answer(text), encoding="base64")) == [text]


def test_what_is_no_such_document_goes_through() -> None:
    for body in (b"not JSON", b"[1]", b'{"data": 3}', answer([[1.0], [1.0, 2.0]])):
        assert one_vector_a_text(body, encoding="float") == body
