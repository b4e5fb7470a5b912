"""A deployment that writes answers: over its own address, with its model's own tokenizer.

The llama.cpp server keeps to a grammar and is given the exact prompt. vLLM gets the conversation
over the chat endpoint, with the grammar as its structured output. Any other backend gets the
conversation alone, and its citations are read from what it says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from engine.api.serving import Serving
from engine.errors import BadInput, Conflict, NotFound
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.serving import records
from engine.serving.client import stream_text
from engine.types.serving import DeploymentState, DeploymentView
from recipes.rag.model import REPEAT_PENALTY, GgufText, Message, plain_prompt

#: seconds that a deployment which is starting may take to be ready
READY_S = 300.0
#: backends whose server takes a grammar beside the keys of OpenAI's protocol, each in its own way
_EXACT, _STRUCTURED = "llama.cpp", "vllm"
_COMING = (DeploymentState.STARTING, DeploymentState.RESTARTING, DeploymentState.WAITING)


def deployment(
    name: str, paths: StatePaths, phase: Callable[[str], None] | None = None
) -> DeployedModel | None:
    """The deployment of that name, ready to answer; None where there is none of that name.

    One that is asleep is woken by the question; one that starts is waited for.

    Args:
        name: as given for the model.
        paths: the state directory.
        phase: told once while it is waited for.

    Raises:
        Conflict: it is stopped, paused or failed; the hint names the command that starts it.
        BadInput: it serves embeddings.
    """
    try:
        if not records.exists(paths, name):
            return None
    except BadInput:
        return None  # not a name a deployment can have
    serving = Serving(paths)
    view = serving.get(name)
    if view.task != "chat":
        raise BadInput(f"the deployment {name!r} makes vectors, not answers")
    if view.state in _COMING:
        if phase is not None:
            phase(f"waiting for {name}")
        view = _ready(serving, view)
    if view.state not in (DeploymentState.READY, DeploymentState.ASLEEP):
        word = "resume" if view.state is DeploymentState.PAUSED else "restart"
        raise Conflict(
            f"the deployment {name!r} is {view.state}",
            why=view.reason,
            hint=f"modelops-tui serve {word} {name}",
        )
    return DeployedModel(view, serving.key(name), paths)


def _ready(serving: Serving, view: DeploymentView) -> DeploymentView:
    """Wait while it is coming up; its state afterwards, whatever that is."""
    deadline = time.monotonic() + READY_S
    while view.state in _COMING and time.monotonic() < deadline:
        time.sleep(0.1)
        view = serving.get(view.name)
    return view


class DeployedModel:
    """A chat deployment as the writer of answers.

    Args:
        view: the deployment.
        key: its API key; empty where it asks for none.
        paths: the state directory.
    """

    def __init__(self, view: DeploymentView, key: str, paths: StatePaths) -> None:
        self._view = view
        self._key = key
        self._paths = paths

    @property
    def name(self) -> str:
        """The deployment, and the version it serves."""
        current = self._view.current
        return f"{self._view.name} ({current.name})" if current else self._view.name

    @property
    def constrained(self) -> bool:
        """Whether its server keeps to a grammar."""
        return self._view.backend in (_EXACT, _STRUCTURED)

    @cached_property
    def _text(self) -> GgufText | FolderText:
        current = self._view.current
        return _text_of(
            current.model if current else self._view.ref,
            self._paths,
            gguf=self._view.backend == _EXACT,
        )

    @cached_property
    def context(self) -> int:
        """Tokens of its window: never more than the model was trained for."""
        trained = self._text.trained_context()
        return min(self._view.context or trained, trained or self._view.context)

    def count(self, text: str, *, special: bool = False) -> int:
        """Tokens of a text, by the tokenizer of the served model."""
        return self._text.count(text, special=special)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt by the chat template of the served model."""
        return self._text.render(messages)

    def stream(
        self, messages: Sequence[Message], *, grammar: str = "", max_tokens: int = 200
    ) -> Iterator[str]:
        """Pieces of its answer, drawn greedily.

        Raises:
            ModelOpsError: it does not answer, refuses, or breaks off.
        """
        body = {"model": self._view.name, "max_tokens": max_tokens, "temperature": 0.0}
        text = self._text
        if self._view.backend != _EXACT or isinstance(text, FolderText):
            chat: dict[str, Any] = {**body, "messages": list(messages)}
            if grammar and self._view.backend == _STRUCTURED:
                chat["structured_outputs"] = {"grammar": grammar}
            yield from stream_text(self._view.url, self._key, "chat/completions", chat)
            return
        prompt, stops = text.rendered(messages)
        exact = {
            **body,
            "prompt": text.without_start(prompt),
            "stop": stops,
            "repeat_penalty": REPEAT_PENALTY,
            **({"grammar": grammar} if grammar else {}),
        }
        yield from stream_text(self._view.url, self._key, "completions", exact)


class FolderText:
    """Tokenizer and chat template of a Hugging Face folder.

    Args:
        folder: with the tokenizer's files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer  # 2 s

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise NotFound(
                f"{self.folder.name} has no tokenizer that can be read", why=str(error)
            ) from error

    def trained_context(self) -> int:
        """Tokens the model was trained for; 0 where its files do not say."""
        from engine.supervise.durable import read_json_or_none

        config = read_json_or_none(self.folder / "config.json") or {}
        return int(config.get("max_position_embeddings") or 0)

    def count(self, text: str, *, special: bool = False) -> int:
        """Tokens of a text; ``special``: the template's marks count as the tokens they are."""
        return len(
            self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not special)
        )

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt by the folder's chat template, or a plain one where it has none."""
        if not self._tokenizer.chat_template:
            return plain_prompt(messages)
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        )


@lru_cache(maxsize=4)
def _text_of(ref: str, paths: StatePaths, *, gguf: bool) -> GgufText | FolderText:
    """Tokenizer of a served model; kept, since a deployment is asked again and again."""
    root = resolve_model(ref, paths).root
    if not gguf and root.kind != "gguf":
        return FolderText(Path(root.path))
    from recipes.serve.llama import whole_gguf

    return GgufText(whole_gguf(root, paths), root.name)  # the very file that is served
