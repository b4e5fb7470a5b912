"""Serving: a model behind an OpenAI-compatible address, for as long as it is wanted."""

from __future__ import annotations

from engine.kinds import Kind
from engine.serving.launch import ServingBackend
from recipes.serve.schema import ServeSpec

KIND = Kind(
    name="serve",
    summary="answer requests over the OpenAI protocol until stopped",
    model=ServeSpec,
    run="recipes.serve.run:run",
    outputs={"requests": "number", "tokens": "number"},
    lane="auto",
    check="recipes.serve.check:check",
    estimate="recipes.serve.estimate:estimate",
    actions={"chat": "recipes.chat.actions:chat", "close": "recipes.chat.actions:close"},
    shares=True,
    code=("engine.serving",),
)

LLAMA_CPP = ServingBackend(
    name="llama.cpp",
    summary="GGUF, on the CPU or a GPU; starts in seconds",
    launch="recipes.serve.llama:launch",
    check="recipes.serve.llama:check",
)

VLLM = ServingBackend(
    name="vllm",
    summary="Hugging Face models, many requests at once; needs `backends install vllm`",
    launch="recipes.serve.vllm:launch",
    check="recipes.serve.vllm:check",
    memory="recipes.serve.vllm:memory",
)
