"""Answers of ``/v1/embeddings`` in OpenAI's shape, whatever the server behind makes of them.

The llama.cpp server answers for a causal model with one vector a token, and knows no
``encoding_format``. Clients expect one vector a text, of length 1, and base64 where they asked.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from array import array
from typing import Any


def one_vector_a_text(body: bytes, encoding: str) -> bytes:
    """The document ``body`` with one vector (dimension,) for each text.

    Vectors of tokens, (tokens, dimension), are averaged and brought to length 1, which is what
    sentence encoders without a head of their own do.

    Args:
        body: an answer with status 200.
        encoding: ``base64`` (little-endian float32) or ``float``.
    """
    try:
        document = json.loads(body)
        rows = document["data"]
        for row in rows:
            row["embedding"] = _encoded(_pooled(row["embedding"]), encoding)
    except (ValueError, KeyError, TypeError):
        # not the document of an embedding: the client shall see what the server said
        return body
    return json.dumps(document).encode()


def _pooled(vector: Any) -> Any:
    if not isinstance(vector, list) or not vector or not isinstance(vector[0], list):
        return vector
    mean = [math.fsum(column) / len(vector) for column in zip(*vector, strict=True)]
    length = math.hypot(*mean)
    return [value / length for value in mean] if length else mean


def _encoded(vector: Any, encoding: str) -> Any:
    if encoding != "base64" or not isinstance(vector, list):
        return vector
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
