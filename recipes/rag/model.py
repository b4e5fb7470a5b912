"""Who answers, and llama.cpp in this process: kept between questions with its prefix cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from engine.errors import BadInput, ModelOpsError
from engine.models import ModelLocation
from engine.paths import StatePaths
from engine.supervise.durable import read_json_or_none

CONTEXT_TOKENS = 4096
#: a small model at temperature 0 goes round in circles without it
REPEAT_PENALTY = 1.1

Message = dict[str, str]


class AnswerModel(Protocol):
    """Who writes an answer: a model in this process, or a deployment."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def context(self) -> int:
        """Tokens of the window."""

    @property
    def constrained(self) -> bool:
        """Whether a grammar is kept to; else citations are only asked for."""

    def count(self, text: str, *, special: bool = False) -> int:
        """Tokens of a text; ``special``: the template's marks count as the tokens they are."""

    def render(self, messages: Sequence[Message]) -> str:
        """The exact prompt of a conversation."""

    def stream(
        self, messages: Sequence[Message], *, grammar: str = "", max_tokens: int = 200
    ) -> Iterator[str]:
        """Pieces of the answer, drawn greedily."""


class Vocabulary:
    """Tokenizer and metadata of a GGUF file, with the interface of ``llama_cpp.Llama``.

    ``Llama(vocab_only=True)`` would make a context and complain on stderr; this makes none.

    Args:
        path: the file.

    Raises:
        ValueError: it is no GGUF file.
    """

    def __init__(self, path: Path) -> None:
        import llama_cpp
        from llama_cpp import _internals

        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = _internals.LlamaModel(path_model=str(path), params=params, verbose=False)
        self.metadata: dict[str, str] = self._model.metadata()

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        """Token ids of a text."""
        return [int(token) for token in self._model.tokenize(text, add_bos, special)]

    def detokenize(self, tokens: list[int], *, special: bool) -> bytes:
        """The text of token ids."""
        return bytes(self._model.detokenize(tokens, special))

    def token_bos(self) -> int:
        """The start token; -1 where there is none."""
        return int(self._model.token_bos())

    def token_eos(self) -> int:
        """The end token; -1 where there is none."""
        return int(self._model.token_eos())

    def adds_start(self) -> bool:
        """Whether llama.cpp puts the start token before a text by itself."""
        return bool(self._model.add_bos_token())

    def close(self) -> None:
        """Free it."""
        self._model.close()


class GgufText:
    """What a GGUF file says of text: how it is counted and how a conversation is written.

    Args:
        path: the file; its weights are not read.
        name: what errors call it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def _load(self) -> Any:
        return Vocabulary(self.path)

    @cached_property
    def _llama(self) -> Any:
        try:
            return self._load()
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelOpsError(
                f"{self.name} can't be loaded", why=str(error) or "llama.cpp refused it"
            ) from error

    def trained_context(self) -> int:
        """Tokens the model was trained for; 0 where the file does not say."""
        known = self._llama.metadata
        family = known.get("general.architecture", "llama")
        return int(known.get(f"{family}.context_length") or 0)

    def count(self, text: str, *, special: bool = False) -> int:
        """Tokens of a text; ``special``: the template's marks count as the tokens they are."""
        return len(self._llama.tokenize(text.encode(), add_bos=False, special=special))

    def render(self, messages: Sequence[Message]) -> str:
        """The exact prompt: the model's own chat template, or a plain one where it has none."""
        return self.rendered(messages)[0]

    def rendered(self, messages: Sequence[Message]) -> tuple[str, list[str]]:
        """The exact prompt, and the texts that end an answer."""
        if not self._llama.metadata.get("tokenizer.chat_template"):
            return plain_prompt(messages), [f"\n\n{role}:" for role in ("user", "system")]
        from recipes.chat.actions import render

        return render(self._llama, list(messages))

    def without_start(self, prompt: str) -> str:
        """``prompt`` for a server that puts the start token before every text by itself."""
        start = self._llama.token_bos()
        if start < 0 or not self._llama.adds_start():
            return prompt
        text: bytes = self._llama.detokenize([start], special=True)
        return prompt.removeprefix(text.decode("utf-8", "replace"))

    def close(self) -> None:
        """Free what was loaded."""
        if "_llama" in self.__dict__:
            self._llama.close()
            del self.__dict__["_llama"]


class LocalModel(GgufText):
    """A model answering in this process.

    Args:
        path: its GGUF file.
        name: what answers and errors call it.
        context: tokens of the window.
        threads: CPU threads; 0 for llama.cpp's default.
        lora: an adapter over it, in GGUF form.
    """

    constrained = True

    def __init__(
        self,
        path: Path,
        name: str,
        context: int = CONTEXT_TOKENS,
        threads: int = 0,
        lora: Path | None = None,
    ) -> None:
        super().__init__(path, name)
        self._context = context
        self._threads = threads
        self._lora = lora

    @classmethod
    def of(cls, location: ModelLocation, paths: StatePaths, threads: int = 0) -> LocalModel:
        """The model at ``location``; a Hugging Face folder is converted once and kept.

        Raises:
            BadInput: it writes no text, or no GGUF can be made of it.
            Refused: the adapter does not fit its base.
        """
        from recipes.serve.llama import whole_gguf
        from recipes.serve.lora import lora_gguf

        _check_writes(location.root)
        path = whole_gguf(location.base or location, paths)
        lora = lora_gguf(location, path, paths) if location.base is not None else None
        return cls(path, location.name, threads=threads, lora=lora)

    def _load(self) -> Any:
        from llama_cpp import Llama  # 0.4 CPU-s, then the weights are mapped

        options: dict[str, Any] = {"n_threads": self._threads} if self._threads else {}
        if self._lora is not None:
            options["lora_path"] = str(self._lora)
        return Llama(str(self.path), n_ctx=self._context, verbose=False, seed=0, **options)

    @cached_property
    def context(self) -> int:
        """Tokens of the window: never more than the model was trained for."""
        return min(self._context, self.trained_context() or self._context)

    def stream(
        self, messages: Sequence[Message], *, grammar: str = "", max_tokens: int = 200
    ) -> Iterator[str]:
        """Generate greedily; what the last call's prompt shares with this is not read again.

        Args:
            messages: the conversation.
            grammar: GBNF that the answer must follow.
            max_tokens: end of the answer.
        """
        from llama_cpp import LlamaGrammar

        rules = LlamaGrammar.from_string(grammar, verbose=False) if grammar else None
        prompt, stops = self.rendered(messages)
        tokens = self._llama.tokenize(prompt.encode(), add_bos=False, special=True)
        found = self._llama.create_completion(
            tokens, max_tokens=max_tokens, temperature=0.0, repeat_penalty=REPEAT_PENALTY,
            stop=stops, grammar=rules, stream=True,
        )  # fmt: skip
        for part in found:
            text = part["choices"][0]["text"]
            if text:
                yield text


def _check_writes(location: ModelLocation) -> None:
    config = read_json_or_none(location.path / "config.json") if location.kind == "hf" else None
    kinds = [str(kind) for kind in (config or {}).get("architectures") or ()]
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise BadInput(
            f"{location.name} can't answer", why=f"it is {', '.join(kinds)}: it writes no text"
        )


def plain_prompt(messages: Sequence[Message]) -> str:
    """A conversation for a model without a chat template."""
    lines = [f"{m['role']}: {m['content']}" for m in messages]
    return "\n\n".join([*lines, "assistant: "])
