"""Is the tokenizer in a GGUF the source's, token by token? Checked on text made to be hard."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.gguf.runtime import GgufModel

#: Emoji with joiners, CJK, right-to-left, combining marks, digits, code, runs of white space,
#: contractions, rare planes, words cut by punctuation, and control characters.
HARD_TEXTS: tuple[str, ...] = (
    "Hello, world! It's 2024; we've paid $1,234,567.89 (don't ask).",
    "🚀🦙 👨‍👩‍👧‍👦 ✅ 😶‍🌫️ 🇩🇪🇯🇵 ☃️ ①②③ ½ ™ ﷽ 𝕏𝔂𝕫 𒀀",
    "我想在apple工作1314151天～ 東京都に住んでいます。한국어도 됩니다! 你好，世界",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום עולם नमस्ते दुनिया កាន់តែពិសេសអាច ไทย",
    "e\u0301 vs \u00e9, ﬁ ligature, Å ≠ Å, naïve café, ZÜRICH straße, İstanbul ı",
    "def f(x):\n    if x != 0:\n\t\treturn {'a': [1, 2]}  # why\n\n\nclass A_b2(Base): pass\r\n",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "   leading, trailing   ",
    "a  b   c    d\te\u00a0f\u3000g\u200bh",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 0x1F 1e-9 v1.2.3",
    "I'M she'Ll WE'VE he'd they're ''''''```````\"\"\"\"......!!!!!!?????? ------=======",
    "CamelCaseWords and snake_case_words, ALLCAPS, mIxEd, http://example.com/a?b=c&d=%20#e",
    "<b>html</b> &amp; $\\frac{a}{b}$ | table | `code` ~~~ @user #tag 50% C++ C# .NET",
    "𐍈 \U0001f9ff \U000e0041 \ufeff BOM � \u202eabc\u202c zero\u200djoiner",
    "a",
    " ",
    "x" * 300,
    "Aber natürlich! Où est-il ? ¿Qué tal? ¡Olé! Çok güzel. Şey… “quotes” ‘single’ – — ‒",
)


@dataclass(frozen=True)
class Mismatch:
    """The first place where the two tokenizers part."""

    text: str
    position: int
    source: tuple[int, ...]
    result: tuple[int, ...]

    def describe(self) -> str:
        """One line: where, and what each side says."""
        at = self.position
        return (
            f"in {self.text[:60]!r} at token {at}: the source says "
            f"{list(self.source[at : at + 4])}, the GGUF {list(self.result[at : at + 4])}"
        )


def special_texts(tokenizer: Any) -> list[str]:
    """Texts with the source's special tokens inside, alone and between words."""
    names = [str(t) for t in getattr(tokenizer, "all_special_tokens", [])][:8]
    texts = [f"before{name}after" for name in names]
    texts += [f"{name}\n one {name} two" for name in names]
    return [*texts, "".join(names)] if names else []


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison."""

    mismatches: tuple[Mismatch, ...]
    limits: tuple[str, ...]
    """Differences that lie in llama.cpp, not in the file: to be told, not to fail on."""


def compare(tokenizer: Any, path: Path, texts: Sequence[str] = HARD_TEXTS) -> Parity:
    """Every text whose tokens differ between ``tokenizer`` and the GGUF at ``path``.

    Both the plain ids and the ids with begin and end tokens are compared. A source that normalizes
    Unicode (Qwen: NFC) is compared on normalized text, because llama.cpp never does; that is a
    limit.
    """
    found: list[Mismatch] = []
    limits: set[str] = set()
    with (
        GgufModel(path, context=0) as model,
        GgufModel(path, context=0, space_prefix=False) as bare,
    ):
        for text in (*texts, *special_texts(tokenizer)):
            for special in (False, True):
                want = tuple(tokenizer(text, add_special_tokens=special)["input_ids"])
                have = tuple(model.tokenize(text, special=special))
                if want == have:
                    continue
                limit = _normal_form(text, want, special, model)
                if limit is None and _only_the_space(text, want, special, bare):
                    limit = _SPACE
                if limit is not None:
                    limits.add(limit)
                    continue
                found.append(Mismatch(text, _parting(want, have), want, have))
                break
    return Parity(tuple(found), tuple(sorted(limits)))


def _parting(want: Sequence[int], have: Sequence[int]) -> int:
    pairs = zip(want, have, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(want), len(have)))


def _normal_form(text: str, want: tuple[int, ...], special: bool, model: GgufModel) -> str | None:
    """The limit, where the GGUF agrees with the source once the text is in a Unicode form."""
    forms: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")
    for form in forms:
        normal = unicodedata.normalize(form, text)
        if normal != text and tuple(model.tokenize(normal, special=special)) == want:
            return (
                f"the source's tokenizer brings text to Unicode form {form}, llama.cpp does not: "
                "text in another form gets other tokens there"
            )
    return None


_SPACE = (
    "the source's tokenizer puts a space before the very first word only; llama.cpp does so after "
    "every special token or never: one space may differ at the start of a text"
)


def _only_the_space(text: str, want: tuple[int, ...], special: bool, bare: GgufModel) -> bool:
    """Whether the texts' tokens are equal but for a space llama.cpp puts, or leaves out."""
    return any(
        tuple(bare.tokenize(candidate, special=special)) == want for candidate in (text, f" {text}")
    )
