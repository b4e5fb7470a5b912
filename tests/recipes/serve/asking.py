"""Asking a deployment the way a stranger would: its address and its key, nothing else."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.errors import ModelOpsError
from modelops_tui import Workstation

#: Hot and seeded: two random models part at once, and each repeats itself.
QUESTION = {"prompt": "the license", "max_tokens": 8, "temperature": 2.0, "seed": 7}


def post(
    station: Workstation,
    name: str,
    body: dict[str, Any],
    *,
    path: str = "/v1/completions",
    key: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, Any]]:
    """Status and JSON document of one request; ``key`` None is the deployment's own."""
    place = urlsplit(station.serving.get(name).url).netloc
    connection: http.client.HTTPConnection = http.client.HTTPConnection(place, timeout=120)
    if tls is not None:
        connection = http.client.HTTPSConnection(place, timeout=120, context=tls)
    secret = station.serving.key(name) if key is None else key
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {secret}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def text_of(answer: tuple[int, dict[str, Any]]) -> str:
    """The text of a completion that must have succeeded."""
    status, value = answer
    assert status == 200, value
    text: str = value["choices"][0]["text"]
    return text


def reason_of(error: ModelOpsError) -> str:
    """Everything an error says: what, why, and the mistakes found in a recipe."""
    return " ".join(map(str, (error, error.why, *getattr(error, "diagnostics", ()))))


def processes(home: Path) -> dict[int, str]:
    """Living processes of a state directory: every worker and server carries it in its environment.

    The caller itself is left out.
    """
    mark = f"MODELOPS_HOME={home}".encode()
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark not in (place / "environ").read_bytes().split(b"\0"):
                continue
            if (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            found[int(place.name)] = words
    found.pop(os.getpid(), None)
    return found


def servers(home: Path) -> dict[int, str]:
    """The model servers among ``processes``."""
    return {pid: words for pid, words in processes(home).items() if "llama_cpp.server" in words}
