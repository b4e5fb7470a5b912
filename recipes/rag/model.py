"""The answering model: llama.cpp in this process, kept between questions with its prefix cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.errors import BadInput, ModelOpsError
from engine.models import ModelLocation

CONTEXT_TOKENS = 4096

Message = dict[str, str]


class LocalModel:
    """A GGUF model with a chat template.

    Args:
        location: a ``.gguf`` file (see ``engine.models.resolve_model``).
        context: tokens of the window.
        threads: CPU threads; 0 for llama.cpp's default.

    Raises:
        BadInput: the model is not a GGUF file.
    """

    def __init__(
        self, location: ModelLocation, context: int = CONTEXT_TOKENS, threads: int = 0
    ) -> None:
        path = Path(location.path)
        if path.is_dir():
            path = next(iter(sorted(path.glob("*.gguf"))), path)
        if path.suffix != ".gguf":
            raise BadInput(
                f"{location.name} can't answer here",
                why=f"answers are made by llama.cpp, which reads GGUF; this is {location.kind}",
                hint="quantize it first (kind quantize), or use the packaged smollm2-135m-instruct",
            )
        self.location = location
        self._path = path
        self._context = context
        self._threads = threads

    @property
    def name(self) -> str:
        return self.location.name

    @cached_property
    def _llama(self) -> Any:
        from llama_cpp import Llama  # 0.4 CPU-s, then the weights are mapped

        options: dict[str, Any] = {"n_threads": self._threads} if self._threads else {}
        try:
            return Llama(str(self._path), n_ctx=self._context, verbose=False, seed=0, **options)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelOpsError(
                f"{self.location.name} can't be loaded", why=str(error) or "llama.cpp refused it"
            ) from error

    @cached_property
    def context(self) -> int:
        """Tokens of the window: never more than the model was trained for."""
        known = self._llama.metadata
        family = known.get("general.architecture", "llama")
        trained = int(known.get(f"{family}.context_length") or self._context)
        return min(self._context, trained)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._llama.tokenize(text.encode(), add_bos=False, special=False))

    def render(self, messages: Sequence[Message]) -> str:
        """The exact prompt: the model's own chat template, or a plain one where it has none."""
        template = self._llama.metadata.get("tokenizer.chat_template")
        if not template:
            lines = [f"{m['role']}: {m['content']}" for m in messages]
            return "\n\n".join([*lines, "assistant: "])
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise BadInput("the chat template refuses the conversation", why=message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        pieces = {"bos_token": self._piece("bos"), "eos_token": self._piece("eos")}
        rendered: str = environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, **pieces
        )
        return rendered

    def _piece(self, which: str) -> str:
        token = self._llama.token_bos() if which == "bos" else self._llama.token_eos()
        if token < 0:
            return ""
        raw: bytes = self._llama.detokenize([token], special=True)
        return raw.decode("utf-8", errors="replace")

    def stream(self, prompt: str, *, grammar: str = "", max_tokens: int = 200) -> Iterator[str]:
        """Generate greedily after ``prompt``; what the last call shares with it is not read again.

        Args:
            prompt: rendered text.
            grammar: GBNF that the answer must follow.
            max_tokens: end of the answer.
        """
        from llama_cpp import LlamaGrammar

        rules = LlamaGrammar.from_string(grammar, verbose=False) if grammar else None
        tokens = self._llama.tokenize(prompt.encode(), add_bos=False, special=True)
        found = self._llama.create_completion(
            tokens, max_tokens=max_tokens, temperature=0.0, repeat_penalty=1.1, grammar=rules,
            stream=True,
        )  # fmt: skip
        for part in found:
            text = part["choices"][0]["text"]
            if text:
                yield text

    def close(self) -> None:
        """Free the weights."""
        if "_llama" in self.__dict__:
            self._llama.close()
            del self.__dict__["_llama"]
