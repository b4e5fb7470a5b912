"""``rag:INDEX`` as a model: a chat completion that answers from documents, with its citations."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.api import Workbench
from engine.errors import ModelOpsError
from engine.serving.messages import HttpError, sse
from engine.types.rag import Answer
from modelops_tui.gateway.errors import document_of
from modelops_tui.gateway.place import plain
from modelops_tui.gateway.routing import RAG
from modelops_tui.sdk.workstation import in_thread

Events = AsyncIterator[dict[str, Any]]


async def rag_answer(bench: Workbench, document: dict[str, Any]) -> Response:
    """Answer the last question of a conversation over an index.

    ``citations`` and ``sources`` stand beside the OpenAI keys: of the answer, or of the last chunk
    of a stream.

    Raises:
        HttpError: 400 without a question.
        NotFound: no such index.
    """
    index, _, model = str(document["model"])[len(RAG) :].partition("@")
    question = last_question(document)
    bench.rag.show(index)
    options: dict[str, Any] = {"model": model} if model else {}
    if history := earlier(document):
        options["history"] = history
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": document["model"],
    }
    events = in_thread(lambda: bench.rag.ask(index, question, **options))
    if document.get("stream"):
        wanted = (document.get("stream_options") or {}).get("include_usage") is True
        return StreamingResponse(
            _stream(events, head, usage=wanted),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
    tokens, answer = 0, None
    async for event in events:
        tokens += event.get("type") == "token"
        answer = event.get("result", answer)
    if answer is None:
        raise HttpError(502, "the index gave no answer", "server_error")
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(answer, tokens),
            **evidence(answer),
        }
    )


def evidence(answer: Answer) -> dict[str, Any]:
    """What an answer rests on: where it comes from, and which sentence cites what."""
    return {
        "found": answer.found,
        "sources": [source.place for source in answer.sources],
        "citations": plain(answer.citations),
    }


def _usage(answer: Answer, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": answer.prompt_tokens + tokens,
    }


async def _stream(events: Events, head: dict[str, Any], *, usage: bool) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **extra: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return sse({**head, "object": "chat.completion.chunk", "choices": [choice], **extra})

    yield chunk({"role": "assistant", "content": ""})
    said, tokens, answer = "", 0, None
    try:
        async for event in events:
            if event.get("type") == "token":
                tokens += 1
                said += str(event["text"])
                yield chunk({"content": str(event["text"])})
            answer = event.get("result", answer)
    except ModelOpsError as error:
        yield sse(document_of(error))
        return
    if answer is None:
        return
    if not said:
        # "not in these documents" is decided without a token of the model
        yield chunk({"content": answer.text})
    yield chunk({}, "stop", **evidence(answer))
    if usage:
        total = {"choices": [], "usage": _usage(answer, tokens)}
        yield sse({**head, "object": "chat.completion.chunk", **total})
    yield sse("[DONE]")


def last_question(document: dict[str, Any]) -> str:
    """The text of the last user turn.

    Raises:
        HttpError: 400 when there is none.
    """
    for turn in reversed(document.get("messages") or []):
        if isinstance(turn, dict) and turn.get("role") == "user" and (text := _text(turn)):
            return text
    raise HttpError(400, "messages holds no question of a user")


def earlier(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) of every turn before the last question, oldest first."""
    pairs: list[tuple[str, str]] = []
    asked = ""
    for turn in document.get("messages") or []:
        text = _text(turn) if isinstance(turn, dict) else ""
        if text and turn.get("role") == "user":
            asked = text
        elif text and asked and turn.get("role") == "assistant":
            pairs.append((asked, text))
            asked = ""
    return pairs


def _text(turn: dict[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return content if isinstance(content, str) and content.strip() else ""
