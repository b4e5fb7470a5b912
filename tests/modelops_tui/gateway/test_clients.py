"""The official `openai` client and LangChain, unchanged, against a real gateway and real models."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from engine.types.serving import DeploymentState
from tests.support.live import House

openai = pytest.importorskip("openai", reason="pip install -e '.[dev]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(live: House) -> Any:
    with openai.OpenAI(
        base_url=f"{live.gateway.url}/v1", api_key=live.token, max_retries=0
    ) as made:
        yield made


def test_chat_completions_embeddings_and_models(client: Any) -> None:
    names = {model.id for model in client.models.list()}
    assert {"support-bot", "embedder", "rag:handbook"} <= names
    assert client.models.retrieve("rag:handbook").id == "rag:handbook"
    greedy: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(model="support-bot", messages=ASK, **greedy)
    pieces = client.chat.completions.create(
        model="support-bot", messages=ASK, stream=True, **greedy
    )
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    one = client.completions.create(model="support-bot", prompt="Once", **greedy)
    parts = client.completions.create(model="support-bot", prompt="Once", stream=True, **greedy)
    assert "".join(p.choices[0].text for p in parts) == one.choices[0].text
    vectors = client.embeddings.create(model="embedder", input=["one text", "another"])
    assert [len(row.embedding) for row in vectors.data] == [256, 256]


async def test_the_async_client_streams(live: House) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{live.gateway.url}/v1", api_key=live.token, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="support-bot", messages=ASK, max_tokens=8, stream=True
        )
        assert [piece async for piece in stream]


def test_langchain(live: House) -> None:
    chains = pytest.importorskip("langchain_openai", reason="pip install -e '.[dev]'")
    address = {"base_url": f"{live.gateway.url}/v1", "api_key": live.token, "max_retries": 0}
    model = chains.ChatOpenAI(model="support-bot", max_tokens=12, temperature=0, **address)
    whole = model.invoke("hello").content
    assert "".join(piece.content for piece in model.stream("hello")) == whole
    vectors = chains.OpenAIEmbeddings(
        model="embedder", check_embedding_ctx_length=False, **address
    ).embed_documents(["one text", "another"])
    assert [len(vector) for vector in vectors] == [256, 256]


def test_an_index_answers_with_its_sources(client: Any) -> None:
    question = [{"role": "user", "content": "What does a paused job keep?"}]
    whole = client.chat.completions.create(model="rag:handbook", messages=question)
    assert "jobs.md" in whole.sources[0]
    assert whole.choices[0].message.content
    assert whole.usage.prompt_tokens > 0
    text, last, usage = "", None, None
    for piece in client.chat.completions.create(
        model="rag:handbook",
        messages=question,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = piece.usage or usage
        if piece.choices:
            text += piece.choices[0].delta.content or ""
            last = piece if piece.choices[0].finish_reason else last
    assert text
    assert last is not None
    assert last.sources == whole.sources
    assert usage is not None
    assert usage.completion_tokens > 0
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="rag:nothing", messages=question)
    with pytest.raises(openai.BadRequestError, match="no question"):
        client.chat.completions.create(
            model="rag:handbook", messages=[{"role": "assistant", "content": "x"}]
        )


def test_refusals_are_the_clients_own_errors(live: House, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nobody", messages=ASK)
    stranger = openai.OpenAI(base_url=f"{live.gateway.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="support-bot", messages=[])


def test_a_sleeping_deployment_is_woken(live: House, client: Any) -> None:
    live.station.serving.sleep("support-bot")
    answer = client.chat.completions.create(model="support-bot", messages=ASK, max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")
    live.station.serving.pause("support-bot")
    deadline = time.monotonic() + 120
    while live.station.serving.get("support-bot").state is not DeploymentState.PAUSED:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answer = client.chat.completions.create(model="support-bot", messages=ASK, max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")


def post(live: House, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    raw = socket.create_connection(("127.0.0.1", live.gateway.port), timeout=300)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.token}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    raw.sendall(head.encode() + data)
    return raw


def test_a_client_that_leaves_frees_its_place(live: House) -> None:
    body = {"model": "support-bot", "prompt": "x", "max_tokens": 400, "stream": True}
    figures = live.gateway.app.state.router.figures
    for _ in range(8):
        raw = post(live, body)
        assert raw.recv(1)
        raw.close()
    deadline = time.monotonic() + 120
    while figures.active:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with post(live, {**body, "max_tokens": 2}) as raw:
        assert raw.recv(12) == b"HTTP/1.1 200"


def test_a_hundred_streams_at_once_lose_nothing(live: House) -> None:
    heard: list[bytes] = []

    def one() -> None:
        got = b""
        with post(
            live,
            {"model": "support-bot", "prompt": "x", "max_tokens": 6, "temperature": 0,
             "stream": True},
        ) as raw:  # fmt: skip
            while piece := raw.recv(1 << 16):
                got += piece
        heard.append(got)

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 100
    assert all(b"data: [DONE]" in got for got in heard)
    assert len({got.count(b'"text":') for got in heard}) == 1
