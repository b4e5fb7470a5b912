"""The keys of a ``rag`` step: a folder of documents becomes an index that can be asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.recipe.spec import DataRefStr, ModelRefStr, Section, StepSpec

Language = Literal[
    "Arabic", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek", "Hungarian",
    "Italian", "Norwegian", "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Tamil",
    "Turkish",
]  # fmt: skip


class Chunks(Section):
    """How texts are cut. The defaults are the measured ones (128 tokens, 32 repeated)."""

    tokens: Annotated[int, Field(ge=16, le=2048)] = 128
    """Most tokens of a chunk, by the embedding model's tokenizer."""
    overlap: Annotated[int, Field(ge=0, le=1024)] = 32
    """About this many tokens of a chunk are repeated in the next one, in whole sentences."""


class RagSpec(StepSpec):
    """Reads, chunks, embeds and indexes a folder; a second run takes only what changed."""

    kind: Literal["rag"] = "rag"
    folder: DataRefStr
    """The documents: a folder, or ``docs`` for the bundled documentation."""
    index: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    """Name of the index to make or to bring up to date."""
    model: ModelRefStr = "all-minilm-l6-v2"
    """The embedding model; another one than the index was made by rebuilds it beside."""
    language: Language = "English"
    """Stemming and stop words of the word search."""
    chunks: Chunks = Chunks()
    include: list[str] = Field(default_factory=list)
    """Only files that fit one of these globs."""
    exclude: list[str] = Field(default_factory=list)
    """Never files that fit one of these globs."""
    tags: dict[str, list[str]] = Field(default_factory=dict)
    """Tags by glob, for filters: ``"reports/*" = ["finance"]``; front matter adds its own."""
    follow_links: bool = False
    """Follow symbolic links (loops are noticed)."""
    max_file_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    """Larger files are listed as unreadable."""
    rebuild: bool = False
    """Make the index anew beside the old one and switch at the end."""
    publish: bool = True
    """Keep the result as a signed artifact."""
