"""Ask documents: index a folder, retrieve, answer with verified citations, measure."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.rag.schema import RagSpec

KIND = Kind(
    name="rag",
    summary="index a folder of documents, so that they can be searched and asked",
    model=RagSpec,
    run="recipes.rag.run:run",
    outputs={"index": "artifact", "documents": "number", "chunks": "number"},
    lane="cpu",
    check="recipes.rag.check:check",
    actions={
        "sync": "recipes.rag.actions:sync",
        "watch": "recipes.rag.actions:watch",
        "remove": "recipes.rag.actions:remove",
        "publish": "recipes.rag.actions:publish",
        "search": "recipes.rag.actions:search",
        "ask": "recipes.rag.actions:ask",
        "inspect": "recipes.rag.actions:inspect",
        "evaluate": "recipes.rag.actions:evaluate",
        "questions": "recipes.rag.actions:questions",
    },
    resumable=True,
    code=("engine.models", "engine.data.source"),
)
