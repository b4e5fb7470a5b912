"""The tokenizer of a GGUF: read from the source tokenizer, and proven against it.

Two kinds of vocabulary occur in the families we convert: byte-level BPE (``gpt2`` in llama.cpp,
with a named splitting rule) and sentencepiece-like BPE with byte fallback (``llama``). The
splitting rule is recognised by the structure of the source's pre-tokenizer, never by guessing from
a model's name; ``recipes.gguf.parity`` then compares token by token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, NotFound, Refused

if TYPE_CHECKING:
    import gguf

# token types of the GGUF specification
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_GPT2_SPLIT = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"

#: Regular expressions of source pre-tokenizers and llama.cpp's name of the rule that equals each.
SPLIT_RULES: dict[str, str] = {
    **dict.fromkeys(_GPT2_SPLIT, "gpt-2"),
    _CONTRACTIONS
    + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    + _TAIL: "llama-bpe",
    _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL: "qwen2",
    _CONTRACTIONS
    + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _TAIL: "qwen35",
    f"{_CASED[0]}|{_CASED[1]}|" + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL: "tekken",
    f"{_CASED[0]}(?i:'s|'t|'re|'ve|'m|'ll|'d)?|{_CASED[1]}(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _TAIL: "gpt-4o",
}


@dataclass(frozen=True)
class Vocabulary:
    """What the ``tokenizer.ggml.*`` keys will say."""

    model: str
    """``gpt2`` (byte-level BPE) or ``llama`` (sentencepiece-like)."""
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    special: dict[str, int]
    """bos, eos, unknown, padding, eot -> token id."""
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool | None
    strips_right: bool
    """White space after a special token belongs to it (Phi-3)."""
    chat_template: Any
    """The template's text, a list of named templates, or None."""

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add every ``tokenizer.*`` key to ``writer``."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list([t.encode() for t in self.tokens])
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges([m.encode() for m in self.merges])
        else:
            writer.add_token_scores(self.scores)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def load_tokenizer(directory: Path) -> Any:
    """The source tokenizer, as transformers loads it, never from the network.

    Raises:
        NotFound: the directory has no tokenizer.
        BadInput: the tokenizer files are damaged.
    """
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((directory / name).is_file() for name in names):
        raise NotFound(
            f"{directory} has no tokenizer",
            why=f"none of {', '.join(names)} is there",
            hint="copy the tokenizer files of the base model beside the weights",
        )
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise BadInput(f"the tokenizer of {directory} can't be read", why=str(error)) from error


def read_vocabulary(tokenizer: Any, directory: Path, size: int) -> Vocabulary:
    """Describe ``tokenizer`` for a GGUF with ``size`` embedding rows.

    Raises:
        Refused: the tokenizer is of a kind llama.cpp has no equivalent for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Refused(
            f"the tokenizer {type(tokenizer).__name__} can't be converted",
            why="it is not a fast tokenizer, so its rules can't be read",
        )
    spec = json.loads(backend.to_str())
    model = spec["model"]
    if model.get("type") != "BPE":
        raise Refused(
            f"a {model.get('type')} tokenizer can't be converted",
            why="the supported families use BPE",
        )
    byte_level = _has_byte_level(spec)
    tokens, types = _tokens(tokenizer, spec, size, byte_level=byte_level)
    common: dict[str, Any] = {
        "tokens": tuple(tokens),
        "types": tuple(types),
        "special": _special_ids(tokenizer, directory, size),
        "strips_right": any(t.get("rstrip") for t in spec.get("added_tokens", [])),
        "chat_template": _chat_template(tokenizer),
        **_affixes(tokenizer),
    }
    merges = tuple(
        m if isinstance(m, str) else " ".join(_escape(p) for p in m) for m in model["merges"]
    )
    if byte_level:
        return Vocabulary(
            "gpt2",
            splitting_rule(spec),
            merges=merges,
            scores=(),
            add_space_prefix=bool(_step(spec, "ByteLevel").get("add_prefix_space")) or None,
            **common,
        )
    if not model.get("byte_fallback"):
        raise Refused(
            "this BPE tokenizer can't be converted",
            why="it is neither byte-level nor byte-fallback",
        )
    return Vocabulary(
        "llama",
        "default",
        merges=(),
        scores=_scores(model, tokens, types),
        add_space_prefix=_adds_space(spec, chats=bool(tokenizer.chat_template)),
        **common,
    )


def splitting_rule(spec: dict[str, Any]) -> str:
    """llama.cpp's name of the splitting rule of a byte-level tokenizer.

    Raises:
        Refused: no rule of llama.cpp is known to equal it.
    """
    steps = _steps(spec.get("pre_tokenizer"))
    patterns = [s["pattern"].get("Regex", "") for s in steps if s["type"] == "Split"]
    digits = [s for s in steps if s["type"] == "Digits"]
    own_split = any(s["type"] == "ByteLevel" and s.get("use_regex", True) for s in steps)
    if not patterns and own_split:
        if not digits:
            return "gpt-2"
        if digits[0].get("individual_digits"):
            return "smollm"
    if len(patterns) == 1 and not digits and not own_split and patterns[0] in SPLIT_RULES:
        return SPLIT_RULES[patterns[0]]
    raise Refused(
        "the tokenizer's splitting rule is not known to llama.cpp",
        why=f"pre-tokenizer: {json.dumps(spec.get('pre_tokenizer'), ensure_ascii=False)[:300]}",
        hint='the backend llama-cpp-convert may know it: set backend = "llama-cpp-convert"',
    )


def restore_split(tokenizer: Any, rule: str) -> bool:
    """Give a byte-level tokenizer the splitting rule that a GGUF names; False where it is unknown.

    transformers rebuilds a tokenizer from a GGUF without its rule: SmolLM2's then joins digits, and
    texts with characters such as ``½`` get other tokens than the model was trained on.
    """
    from tokenizers import Regex, pre_tokenizers

    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if rule == "smollm":
        parts = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    elif rule == "gpt-2":
        parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        pattern = next((text for text, name in SPLIT_RULES.items() if name == rule), None)
        if pattern is None:
            return False
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_only]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return True


def _steps(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    if node is None:
        return []
    if node["type"] == "Sequence":
        inner = node.get("pretokenizers") or node.get("normalizers") or node.get("decoders") or []
        return [step for child in inner for step in _steps(child)]
    return [node]


def _step(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((s for s in _steps(spec.get("pre_tokenizer")) if s["type"] == kind), {})


def _has_byte_level(spec: dict[str, Any]) -> bool:
    return bool(_step(spec, "ByteLevel"))


def _escape(piece: str) -> str:
    # GGUF joins a merge's halves by one space: a space inside a half takes the byte-level letter
    return piece.replace(" ", "Ġ")


def _looks_special(token: str) -> bool:
    """Added tokens some models forget to mark; llama.cpp's converter treats the same ones so."""
    return (
        token in {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def _tokens(
    tokenizer: Any, spec: dict[str, Any], size: int, *, byte_level: bool
) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    unknown = spec["model"].get("unk_token")
    for token, index in spec["model"]["vocab"].items():
        if index < size:
            tokens[index], types[index] = token, NORMAL
            if not byte_level and len(token) == 6 and token.startswith("<0x") and token[-1] == ">":
                types[index] = BYTE
            elif not byte_level and token == unknown:
                types[index] = UNKNOWN
    for added in spec.get("added_tokens", []):
        index, token = int(added["id"]), added["content"]
        if index >= size:
            continue
        if types[index] == UNKNOWN:
            continue
        if added.get("special") or _looks_special(token):
            tokens[index], types[index] = token, CONTROL
        else:
            # llama.cpp matches these in the raw text, where a space is a space
            tokens[index], types[index] = token.replace("▁", " "), USER_DEFINED
    return tokens, types


def _scores(model: dict[str, Any], tokens: list[str], types: list[int]) -> tuple[float, ...]:
    """Scores that make llama.cpp's bigram queue merge in the order of the BPE merges.

    llama.cpp always joins the pair whose result scores highest; the BPE rule is to join the pair of
    the lowest rank. With minus the rank as the score both are the same.
    """
    rank: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, number)
    last = len(rank)
    return tuple(
        -float(rank.get(token, last))
        if kind == NORMAL
        else (-1000.0 if kind == USER_DEFINED else 0.0)
        for token, kind in zip(tokens, types, strict=True)
    )


def _adds_space(spec: dict[str, Any], *, chats: bool) -> bool:
    """Whether llama.cpp shall put a space before text, at its start and after special tokens.

    Sources of the scheme ``first`` do it at the very start only, which llama.cpp can't: for a model
    that chats, conversations (which begin with a special token) are kept exact, else plain text.
    """
    if any(step["type"] == "Prepend" for step in _steps(spec.get("normalizer"))):
        return True
    scheme = _step(spec, "Metaspace").get("prepend_scheme", "never")
    return bool(scheme == "always" or (scheme == "first" and not chats))


def _special_ids(tokenizer: Any, directory: Path, size: int) -> dict[str, int]:
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    found = {k: int(v) for k, v in named.items() if v is not None and v < size}
    for other in stop_ids(directory):
        if other != found.get("eos") and other < size:
            found["eot"] = other
            break
    return found


def stop_ids(directory: Path) -> tuple[int, ...]:
    """The token ids that end a generation, from ``generation_config.json``."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return ()
    stop = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    if stop is None:
        return ()
    return tuple(int(s) for s in (stop if isinstance(stop, list) else [stop]))


def _chat_template(tokenizer: Any) -> Any:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return [{"name": name, "template": text} for name, text in template.items()]
    return template


def _affixes(tokenizer: Any) -> dict[str, bool]:
    """Whether encoding puts a begin token before, or an end token after, a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    extra = len(full) - len(plain)
    return {
        "add_bos": (
            extra > 0 and full[0] == tokenizer.bos_token_id and full[-len(plain) :] == plain
        )
        or extra > 1,
        "add_eos": (
            extra > 0 and full[-1] == tokenizer.eos_token_id and full[: len(plain)] == plain
        )
        or extra > 1,
    }
