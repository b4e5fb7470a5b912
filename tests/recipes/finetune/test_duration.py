"""Counting tokens for an estimate, without keeping a tokenizer in the asking process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BadInput
from recipes.finetune import duration

TEXTS = ("a licence", "the quick brown fox " * 20, "naïve 漢字 🙂", "")

ASIDE = """
import sys
from pathlib import Path
from recipes.finetune import duration
print(*duration._token_counts({texts!r}, Path({file!r})))
print("tokenizers" in sys.modules)
"""


def test_a_child_counts_as_the_tokenizer_does(tiny_model: Path) -> None:
    file = tiny_model / "tokenizer.json"
    from tokenizers import Tokenizer

    exact = Tokenizer.from_file(str(file))
    want = [len(exact.encode(text, add_special_tokens=False).ids) for text in TEXTS]
    assert list(duration._token_counts(TEXTS, file)) == want
    done = subprocess.run(
        [sys.executable, "-c", ASIDE.format(texts=TEXTS, file=str(file))],
        capture_output=True,
        text=True,
        check=True,
    )
    counts, loaded = done.stdout.splitlines()
    assert [int(count) for count in counts.split()] == want
    assert loaded == "False"


def test_a_damaged_tokenizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    with pytest.raises(BadInput, match="is no tokenizer"):
        duration._token_counts(("text",), broken)
