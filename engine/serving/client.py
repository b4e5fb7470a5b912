"""Talking to a deployment from an ordinary (blocking) program: standard library only."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from engine.errors import Conflict, EngineUnavailable, ModelOpsError
from engine.service import error_from_json
from engine.types.serving import ChatMessage, ChatPiece, Sampling

_TIMEOUT_S = 300.0


@contextmanager
def _request(
    url: str, path: str, key: str, body: dict[str, Any]
) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # our own server on this machine, whose certificate names another host
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request("POST", path, json.dumps(body), headers)
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise EngineUnavailable(
            f"nothing answers at {url}",
            why=str(error),
            hint="`modelops-tui serve list` shows what runs",
        ) from error
    finally:
        connection.close()


def run_command(url: str, admin: str, command: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask a deployment's front to do something; returns its answer.

    Raises:
        ModelOpsError: as the deployment raised it.
    """
    with _request(url, f"/-/{command}", admin, params) as answer:
        value = json.loads(answer.read())
    if answer.status == 200 and "result" in value:
        result: dict[str, Any] = value["result"]
        return result
    error = value.get("error", {})
    if "what" in error:
        raise error_from_json(error)
    raise Conflict(str(error.get("message", f"status {answer.status}")))


def stream_chat(
    url: str, key: str, model: str, turns: Sequence[ChatMessage], sampling: Sampling
) -> Iterator[ChatPiece]:
    """A streamed answer of an OpenAI-compatible server.

    The prompt shown is the request as sent: the server puts it into the model's template.

    Raises:
        ModelOpsError: the server refused, or broke off.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [turn.to_json() for turn in turns],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stream": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    yield ChatPiece("prompt", json.dumps(body["messages"], ensure_ascii=False, indent=1))
    began, first, pieces, finish = time.monotonic(), None, [], None
    with _request(url, f"{urlsplit(url).path}/chat/completions", key, body) as answer:
        if answer.status != 200:
            raise _refusal(answer)
        for event in events(answer):
            if "error" in event:
                raise Conflict("the answer broke off", why=str(event["error"].get("message", "")))
            choice = (event.get("choices") or [{}])[0]
            finish = choice.get("finish_reason") or finish
            text = (choice.get("delta") or {}).get("content")
            if text:
                first = first if first is not None else time.monotonic()
                pieces.append(text)
                yield ChatPiece("text", text)
    ended = time.monotonic()
    first = first if first is not None else ended
    rate = (len(pieces) - 1) / (ended - first) if len(pieces) > 1 and ended > first else 0.0
    stats = {
        "tokens": len(pieces),
        "seconds": round(ended - began, 3),
        "first_token_s": round(first - began, 3),
        "tokens_per_s": round(rate, 2),
        "finish_reason": finish,
    }
    yield ChatPiece("end", "".join(pieces), stats)


def stream_text(url: str, key: str, endpoint: str, body: dict[str, Any]) -> Iterator[str]:
    """Pieces of text of a streamed answer of an OpenAI-compatible server.

    Args:
        url: base URL, ending in ``/v1``.
        key: API key; empty where none is asked for.
        endpoint: ``completions`` or ``chat/completions``.
        body: the request, without ``stream``.

    Raises:
        ModelOpsError: the server refused, or broke off.
    """
    path = f"{urlsplit(url).path}/{endpoint}"
    with _request(url, path, key, {**body, "stream": True}) as answer:
        if answer.status != 200:
            raise _refusal(answer)
        for event in events(answer):
            if "error" in event:
                raise Conflict("the answer broke off", why=str(event["error"].get("message", "")))
            choice = (event.get("choices") or [{}])[0]
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if text:
                yield str(text)


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON documents of an event stream, until ``[DONE]``."""
    for raw in answer:
        line = raw.strip()
        if line == b"data: [DONE]":
            return
        if line.startswith(b"data:"):
            yield json.loads(line[5:])


def _refusal(answer: http.client.HTTPResponse) -> ModelOpsError:
    text = answer.read(4096)
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = text.decode("utf-8", "replace")
    return Conflict(f"the server answered with status {answer.status}", why=message)
