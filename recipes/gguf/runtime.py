"""llama.cpp as a library: load a GGUF, tokenize, take logits in windows, generate greedily, close.

The high-level ``Llama`` class copies every logit into its own array; here logits stay where
llama.cpp put them and are handed on as a view, valid until the next call. Errors reach only
llama.cpp's log, so the log is caught and its last lines become the reason of our error.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine.errors import BadInput, DoesNotFit, MissingPart

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: ggml's log levels: an error, and "goes on with the level of the line before"
_ERROR, _CONTINUE = 4, 5

#: ggml numbers its types from 0; this many names are asked for (unused numbers have no size).
_MAX_TYPES = 43

_lines: deque[tuple[int, str]] = deque(maxlen=50_000)  # three lines a tensor
_lock = threading.Lock()
_library: Any = None
_callback: Any = None


def library() -> Any:
    """The loaded binding module, with its log caught (0.4 CPU-s the first time).

    Raises:
        MissingPart: llama-cpp-python is not installed, or its native library does not load.
    """
    global _library, _callback
    with _lock:
        if _library is not None:
            return _library
        try:
            import llama_cpp.llama_cpp as native
        except (ImportError, OSError, RuntimeError) as error:
            raise MissingPart(
                "llama.cpp is not available here",
                why=str(error),
                hint="install llama-cpp-python (it compiles native code: a C++ compiler and cmake)",
            ) from error
        worst, begun = 0, ""

        def keep(level: int, text: bytes, _user: Any) -> None:
            # one line comes in several calls; it is kept with the worst level among them
            nonlocal worst, begun
            worst = max(worst, 0 if level == _CONTINUE else level)
            begun += text.decode("utf-8", "replace")
            *whole, begun = begun.split("\n")
            for line in whole:
                _lines.append((worst, line.rstrip()))
            worst = 0 if not begun else worst

        _callback = native.llama_log_callback(keep)
        native.llama_log_set(_callback, ctypes.c_void_p(0))
        native.llama_backend_init()
        _library = native
        return native


@cache
def tensor_types() -> dict[str, tuple[int, int, int]]:
    """Tensor types of this llama.cpp: name -> (number, values in a block, bytes of a block)."""
    from llama_cpp import _ggml

    library()
    ggml = _ggml.libggml
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    found = {}
    for number in range(_MAX_TYPES):
        name = ggml.ggml_type_name(number)
        size = ggml.ggml_type_size(number)
        if name and size:
            found[name.decode().upper()] = (number, int(ggml.ggml_blck_size(number)), int(size))
    return found


def log_reason(default: str) -> str:
    """The newest error lines of llama.cpp's log, or ``default``."""
    errors = [text for level, text in _lines if level == _ERROR and text]
    return "; ".join(dict.fromkeys(errors[-3:])) or default


def log_lines(contains: str = "") -> list[str]:
    """Caught lines holding ``contains``, oldest first."""
    return [text for _level, text in _lines if contains in text]


def clear_log() -> None:
    """Forget the caught lines, before a call whose messages matter."""
    _lines.clear()


class GgufModel:
    """A GGUF opened for evaluation; use it as a context manager.

    Args:
        path: the file.
        context: tokens one window may hold; 0 loads the vocabulary only.
        threads: CPU threads for every computation.
        gpu_layers: layers on the GPU (-1: all; 0: none).
        adapters: LoRA files in GGUF form, applied with weight 1.
        space_prefix: overrides whether the tokenizer puts a space before text.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 512,
        threads: int = 1,
        gpu_layers: int = 0,
        adapters: Sequence[Path] = (),
        space_prefix: bool | None = None,
    ) -> None:
        self.path = path
        self.context = context
        self._native = native = library()
        self._model: Any = None
        self._state: Any = None
        self._adapters: list[Any] = []
        self.prompt_seconds = 0.0
        """Time the last ``generate`` took for its prompt."""
        clear_log()
        params = native.llama_model_default_params()
        params.vocab_only = context == 0
        params.n_gpu_layers = gpu_layers
        if space_prefix is not None:
            table = (native.llama_model_kv_override * 2)()
            table[0].tag = native.LLAMA_KV_OVERRIDE_TYPE_BOOL
            table[0].key = b"tokenizer.ggml.add_space_prefix"
            table[0].value.val_bool = space_prefix
            params.kv_overrides = table
        self._model = native.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise BadInput(
                f"{path} can't be loaded by llama.cpp",
                why=log_reason("the file is damaged, or of an unknown architecture"),
            )
        self.vocab = native.llama_model_get_vocab(self._model)
        self.n_vocab = int(native.llama_vocab_n_tokens(self.vocab))
        if context:
            self._open_context(threads)
            self._apply(adapters)

    def _open_context(self, threads: int) -> None:
        native = self._native
        params = native.llama_context_default_params()
        params.n_ctx = self.context
        params.n_batch = params.n_ubatch = self.context
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max = 1
        params.no_perf = True
        self._state = native.llama_init_from_model(self._model, params)
        if not self._state:
            reason = log_reason("llama.cpp gave no reason")
            self.close()
            raise DoesNotFit(
                f"no room for a context of {self.context} tokens",
                why=reason,
                hint="lower eval.window",
            )

    def _apply(self, adapters: Sequence[Path]) -> None:
        native = self._native
        for path in adapters:
            adapter = native.llama_adapter_lora_init(self._model, str(path).encode())
            if not adapter:
                reason = log_reason("llama.cpp gave no reason")
                self.close()
                raise BadInput(f"the adapter {path} does not fit {self.path}", why=reason)
            self._adapters.append(adapter)
        if self._adapters:
            handles = (type(self._adapters[0]) * len(self._adapters))(*self._adapters)
            scales = (ctypes.c_float * len(self._adapters))(*([1.0] * len(self._adapters)))
            native.llama_set_adapters_lora(self._state, handles, len(self._adapters), scales)

    def close(self) -> None:
        """Free the native memory; safe to call twice."""
        if self._state:
            self._native.llama_free(self._state)
            self._state = None
        if self._model:
            self._native.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- what the file says ------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(self._native.llama_model_n_params(self._model))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors (the file without its metadata)."""
        return int(self._native.llama_model_size(self._model))

    @property
    def memory_bytes(self) -> int:
        """Weights, key-value cache and logits: what this context needs, without the code."""
        cache = int(self._native.llama_state_get_size(self._state)) if self._state else 0
        return self.tensor_bytes + cache

    def meta(self, key: str) -> str | None:
        """A metadata value as text, or None."""
        size = 1 << 20
        buffer = ctypes.create_string_buffer(size)
        found = self._native.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
        return buffer.value.decode("utf-8", "replace") if found >= 0 else None

    def ends(self, token: int) -> bool:
        """Whether generation stops at ``token``."""
        return bool(self._native.llama_vocab_is_eog(self.vocab, token))

    # -- text -------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False, parse: bool = True) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any text.
            special: add the begin and end tokens the model asks for.
            parse: read control tokens written out in the text as such.
        """
        data = text.encode()
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._native.llama_tokenize(self.vocab, data, len(data), ids, room, special, parse)
        if count < 0:
            ids = (ctypes.c_int32 * -count)()
            count = self._native.llama_tokenize(
                self.vocab, data, len(data), ids, -count, special, parse
            )
        return list(ids[:count])

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of ``tokens``; control tokens written out where ``special``."""
        pieces = bytearray()
        buffer = ctypes.create_string_buffer(1024)
        for token in tokens:
            size = self._native.llama_token_to_piece(self.vocab, token, buffer, 1024, 0, special)
            pieces += buffer.raw[: max(size, 0)]
        return pieces.decode("utf-8", "replace")

    # -- numbers ----------------------------------------------------------------------------------

    def logits(self, tokens: Sequence[int]) -> Array:
        """Logits after each of ``tokens``, from an empty context.

        Returns:
            ``(len(tokens), n_vocab)`` float32, a view that the next call overwrites.
        """
        self._native.llama_memory_clear(self._native.llama_get_memory(self._state), True)
        return self._decode(tokens, 0, every=True)

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens chosen greedily after ``prompt``; ends after a stop token."""
        import numpy as np

        self._native.llama_memory_clear(self._native.llama_get_memory(self._state), True)
        began = time.perf_counter()
        row = self._decode(prompt, 0, every=False)
        self.prompt_seconds = time.perf_counter() - began
        chosen: list[int] = []
        while True:
            chosen.append(int(np.argmax(row[-1])))
            if len(chosen) >= count or self.ends(chosen[-1]):
                return chosen
            row = self._decode(chosen[-1:], len(prompt) + len(chosen) - 1, every=False)

    def _decode(self, tokens: Sequence[int], start: int, *, every: bool) -> Array:
        import numpy as np

        count = len(tokens)
        if not 0 < count <= self.context or start + count > self.context:
            raise BadInput(f"{start + count} tokens do not fit a context of {self.context}")
        if min(tokens) < 0 or max(tokens) >= self.n_vocab:
            raise BadInput(f"a token id lies outside of {self.path}'s {self.n_vocab} entries")
        with self._batch(tokens, start, every=every) as batch:
            status = self._native.llama_decode(self._state, batch)
        if status != 0:
            raise BadInput(
                f"llama.cpp could not evaluate {self.path}",
                why=log_reason(f"llama_decode returned {status}"),
            )
        pointer = self._native.llama_get_logits(self._state)
        rows: Array = np.ctypeslib.as_array(pointer, (count if every else 1, self.n_vocab))
        return rows

    @contextmanager
    def _batch(self, tokens: Sequence[int], start: int, *, every: bool) -> Iterator[Any]:
        count = len(tokens)
        batch = self._native.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for i, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = start + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = every or i == count - 1
            yield batch
        finally:
            self._native.llama_batch_free(batch)
