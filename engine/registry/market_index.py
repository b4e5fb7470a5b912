"""What a publisher's signed index of shared adapters holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.registry.documents import (
    Count,
    Document,
    FileEntry,
    ManifestId,
    Name,
    Tag,
    Text,
    Time,
)
from engine.registry.layout import MAX_FILES


class Base(Document):
    """The model an adapter belongs on, and the facts of its configuration that must agree."""

    name: Text
    facts: dict[str, Text] = Field(default_factory=dict)


class Entry(Document):
    """One adapter of a publisher."""

    name: Name
    version: Tag
    base: Base
    license: Text
    summary: Text = ""
    card: Annotated[str, Field(max_length=1 << 20)] = ""
    files: Annotated[list[FileEntry], Field(min_length=1, max_length=MAX_FILES)]
    tags: list[Tag] = Field(default_factory=list)
    created: Time
    manifest: ManifestId
    metrics: dict[str, Text] = Field(default_factory=dict)


class Index(Document):
    """Everything a publisher shares: one signed document, replaced as a whole."""

    schema_: Literal["modelops.market/1"] = Field(
        default="modelops.market/1", validation_alias="schema", serialization_alias="schema"
    )
    public: Annotated[str, Field(max_length=64)]
    owner: Annotated[str, Field(max_length=256)]
    version: Count
    created: Time
    expires: Time
    entries: Annotated[list[Entry], Field(max_length=10_000)]
