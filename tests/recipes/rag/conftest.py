"""The packaged encoder, loaded once, and a state directory of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.gguf.convert import convert
from recipes.rag.embedding import Embedder


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    state = StatePaths(tmp_path_factory.mktemp("embedder"))
    return Embedder(resolve_model("all-minilm-l6-v2", state))


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that answers in no time, in llama.cpp's form: a window of 512 tokens."""
    made = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert(tiny_model, made)
    return made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small folder of documents about unrelated things."""
    root = tmp_path / "library"
    (root / "animals").mkdir(parents=True)
    (root / "animals" / "penguins.md").write_text(
        "---\ntags: [birds, cold]\ndate: 2020-05-01\n---\n# Penguins\n\n"
        "Penguins are birds that cannot fly. They swim very well.\n\n"
        "## Food\n\nThey eat krill, squid and small fish.\n"
    )
    (root / "animals" / "cats.md").write_text(
        "# Cats\n\nA cat sleeps sixteen hours a day.\n\n## Sounds\n\nCats purr when content.\n"
    )
    (root / "bread.txt").write_text(
        "Bread dough needs flour, water, salt and yeast. Bake it at 230 degrees for an hour.\n"
    )
    return root
