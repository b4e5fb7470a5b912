"""The keys of a ``serve`` step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.recipe.spec import ModelRefStr, Passthrough, StepSpec


class ServeSpec(StepSpec):
    """Serve a model; it runs until it is stopped."""

    model: ModelRefStr
    """What to serve. A stage (``support-bot@prod``) is followed: a promotion switches to it."""
    deployment: str = ""
    """Its name, and the model name clients use; by default made from ``model``."""
    backend: str = "llama.cpp"
    """``llama.cpp``, ``vllm``, or one that a plugin brings."""
    adapters: dict[str, ModelRefStr] = Field(default_factory=dict)
    """Adapters over the model, by the name clients use for them."""
    task: Literal["chat", "embed"] = "chat"
    """``chat`` also answers plain completions; ``embed`` answers ``/v1/embeddings``."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs a key and should have TLS."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: the first free one from 8100 on, kept for good."""
    context: Annotated[int, Field(ge=64, le=1 << 20)] = 2048
    """Tokens a conversation may have."""
    api_key: bool = True
    """Ask clients for the deployment's key (``serve key NAME`` prints it)."""
    tls_certificate: str = ""
    """A PEM file; with ``tls_key`` the address is https."""
    tls_key: str = ""
    idle_minutes: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """Unload after so long without a request (0: never); the next request loads it again."""
    pinned: bool = False
    """Stay with this version whatever is promoted."""
    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Requests that may wait; more are told to come back."""
    max_request_mb: Annotated[float, Field(gt=0, le=1024)] = 8.0
    llama_cpp: Passthrough = Field(default_factory=dict)
    """Further settings of the llama.cpp server (``n_gpu_layers``, ``flash_attn``, ...)."""
    options: Passthrough = Field(default_factory=dict)
    """Settings of vLLM or of a plugin's backend."""
