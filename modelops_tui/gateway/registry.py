"""``/api/artifacts``, ``/api/stages``, ``/api/promotions``, ``/api/audit``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse, Response
from pydantic import Field

from engine.errors import NotFound
from engine.types.artifacts import (
    ArtifactDetail,
    ArtifactView,
    CompareView,
    EventView,
    GateResult,
    LineageNode,
    StageChange,
    StageView,
    VerifyReport,
)
from modelops_tui.gateway.place import NAME, REF, Given, Limit, Place, Ref, Text, body, group

Word = Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9._+-]*$")]
Stage = Annotated[
    str, Path(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", examples=["staging"])
]
_REF = Field(max_length=300, pattern=REF)
_STAGE = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
_NOTE = Field(max_length=1000)


class Promotion(Given):
    """A stage to move."""

    model_config = body({"ref": "support-bot@1", "stage": "staging", "note": "beats the base"})
    ref: Annotated[str, _REF]
    stage: Annotated[str, _STAGE]
    note: Annotated[str, _NOTE] = ""
    passphrase: Annotated[str, Field(max_length=1000)] | None = None
    """Unlocks the release key, where the stage asks for one. Never kept or logged."""


class Demotion(Given):
    """A stage to empty."""

    model_config = body({"name": "support-bot", "stage": "staging"})
    name: Annotated[str, Field(max_length=128, pattern=NAME)]
    stage: Annotated[str, _STAGE]
    note: Annotated[str, _NOTE] = ""
    passphrase: Annotated[str, Field(max_length=1000)] | None = None
    """Unlocks the release key, where the stage asks for one. Never kept or logged."""


class Advice(Given):
    """Why a version is advised against."""

    model_config = body({"reason": "leaks phone numbers"})
    reason: Annotated[str, _NOTE] = ""
    undo: bool = False


def routes(place: Place) -> APIRouter:
    """Everything about artifacts and stages."""
    router = group("registry")
    _looking(router, place)
    _files(router, place)
    _changing(router, place)
    return router


def _looking(router: APIRouter, place: Place) -> None:
    artifacts, read = place.bench.artifacts, [place.gate.needs("read")]

    @router.get("/api/artifacts", dependencies=read)
    def list_artifacts(
        artifact_type: Word = "",
        stage: Word = "",
        tag: Word = "",
        name: Word = "",
        text: Text = "",
        include_runs: bool = False,
        limit: Limit = 100,
        before: Annotated[str, Query(pattern="^(sha256:[0-9a-f]{64})?$")] = "",
    ) -> list[ArtifactView]:
        """Artifacts, newest first."""
        found = artifacts.list(
            artifact_type or None,
            stage or None,
            tag or None,
            text or None,
            name=name or None,
            include_runs=include_runs,
            limit=limit,
            before=before or None,
        )
        return list(found)

    @router.get("/api/artifacts/{ref}", dependencies=read)
    def show(ref: Ref) -> ArtifactDetail:
        """One artifact: files, signatures, lineage, events, card."""
        return artifacts.show(ref)

    @router.get("/api/artifacts/{ref}/lineage", dependencies=read)
    def lineage(
        ref: Ref, up: bool = True, depth: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[LineageNode]:
        """Ancestors (`up`) or descendants, nearest first."""
        return list(artifacts.lineage(ref, up=up, depth=depth))

    @router.get("/api/artifacts/{ref}/gates/{stage}", dependencies=read)
    def gates(ref: Ref, stage: Stage) -> list[GateResult]:
        """Each condition for a promotion, met or not."""
        return list(artifacts.gates(ref, stage))

    @router.get("/api/compare", dependencies=read)
    def compare(
        left: Annotated[str, Query(max_length=300, pattern=REF)],
        right: Annotated[str, Query(max_length=300, pattern=REF)],
    ) -> CompareView:
        """Two artifacts side by side."""
        return artifacts.compare(left, right)

    @router.get("/api/stages", dependencies=read)
    def stages() -> list[StageView]:
        """The ladder of stages with who may move them."""
        return list(artifacts.stages()) if artifacts.exists else []

    @router.get("/api/stages/history", dependencies=read)
    def history(
        name: Annotated[str, Query(max_length=128, pattern=NAME)], stage: Word = ""
    ) -> list[StageChange]:
        """Which version held a stage from when to when."""
        return list(artifacts.stage_history(name, stage or None))

    @router.get("/api/audit", dependencies=read)
    def audit(name: Word = "", limit: Limit = 100) -> list[EventView]:
        """The signed events, newest first."""
        return list(artifacts.audit(name=name or None, limit=limit))


def _files(router: APIRouter, place: Place) -> None:
    artifacts, gate = place.bench.artifacts, place.gate

    @router.post("/api/artifacts/{ref}/verify", dependencies=[gate.needs("read")])
    def verify(ref: Ref, deep: bool = False) -> VerifyReport:
        """Check signature, publication and every file; `deep` reads each byte again."""
        return artifacts.verify(ref, deep)

    @router.get(
        "/api/artifacts/{ref}/files/{path:path}",
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes."}},
        dependencies=[gate.needs("read")],
    )
    def download(
        ref: Ref,
        path: Annotated[str, Path(min_length=1, max_length=1000, examples=["report.json"])],
    ) -> Response:
        """One file of an artifact, verified before it is sent."""
        # what the signed manifest names and nothing else: no path is ever put together from input
        if path not in {file.path for file in artifacts.show(ref).files}:
            raise NotFound(f"{ref} has no file of that name")
        return FileResponse(artifacts.path(ref) / path, media_type="application/octet-stream")


def _changing(router: APIRouter, place: Place) -> None:
    artifacts, promote = place.bench.artifacts, [place.gate.needs("promote")]

    @router.post("/api/promotions", dependencies=promote)
    def promote_(body: Promotion) -> ArtifactView:
        """Move a stage to a version, through its gates."""
        return artifacts.promote(body.ref, body.stage, note=body.note, passphrase=body.passphrase)

    @router.post("/api/demotions", status_code=204, dependencies=promote)
    def demote(body: Demotion) -> None:
        """Empty a stage of a name."""
        artifacts.demote(body.name, body.stage, note=body.note, passphrase=body.passphrase)

    @router.put("/api/artifacts/{ref}/tags/{tag}", dependencies=promote)
    def tag(ref: Ref, tag: Stage) -> ArtifactView:
        """Put a tag on this version."""
        return artifacts.tag(ref, tag)

    @router.delete("/api/artifacts/{ref}/tags/{tag}", dependencies=promote)
    def untag(ref: Ref, tag: Stage) -> ArtifactView:
        """Take a tag away."""
        return artifacts.tag(ref, tag, remove=True)

    @router.post("/api/artifacts/{ref}/yank", status_code=204, dependencies=promote)
    def yank(ref: Ref, body: Advice) -> None:
        """Advise against a version; names pass over it from now on."""
        artifacts.yank(ref, body.reason, undo=body.undo)

    @router.delete(
        "/api/artifacts/{ref}", status_code=204, dependencies=[place.gate.needs("admin")]
    )
    def delete(ref: Ref, reason: Text = "") -> None:
        """Delete a version that holds no stage and is the base of none."""
        artifacts.delete(ref, reason)
