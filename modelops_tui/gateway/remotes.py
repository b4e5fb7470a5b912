"""``/api/remotes``: where this registry syncs with, push and pull."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter
from pydantic import Field

from engine.types.artifacts import RemoteView, SyncReport, SyncStatus
from modelops_tui.gateway.place import NAME, Given, Name, Place, body, group


class NewRemote(Given):
    """A place to sync with."""

    model_config = body({"name": "origin", "url": "s3://models/team?endpoint=http://minio:9000"})
    name: Annotated[str, Field(max_length=128, pattern=NAME)]
    url: Annotated[str, Field(min_length=1, max_length=2000)]


class Transfer(Given):
    """How to push or pull."""

    model_config = body({"dry_run": True})
    dry_run: bool = False
    only: Annotated[str, Field(max_length=200)] | None = None
    """Pull: a glob over names; of others only the manifests come."""


def shown(view: RemoteView) -> RemoteView:
    """A remote without what its address may hold of a password."""
    parts = urlsplit(view.url)
    if "@" not in parts.netloc:
        return view
    host = parts.netloc.rpartition("@")[2]
    return replace(view, url=urlunsplit(parts._replace(netloc=host)))


def routes(place: Place) -> APIRouter:
    """Everything about remotes."""
    router, artifacts, gate = group("remotes"), place.bench.artifacts, place.gate
    read, move, admin = [gate.needs("read")], [gate.needs("promote")], [gate.needs("admin")]

    @router.get("/api/remotes", dependencies=read)
    def list_remotes() -> list[RemoteView]:
        """The remotes of this registry."""
        return [shown(view) for view in artifacts.remotes()] if artifacts.exists else []

    @router.post("/api/remotes", status_code=201, dependencies=admin)
    def add(body: NewRemote) -> RemoteView:
        """Probe a place and keep it."""
        return shown(artifacts.remote_add(body.name, body.url))

    @router.delete("/api/remotes/{name}", status_code=204, dependencies=admin)
    def remove(name: Name) -> None:
        """Forget a remote (what lies there stays)."""
        artifacts.remote_remove(name)

    @router.get("/api/remotes/{name}/status", dependencies=read)
    def status(name: Name) -> SyncStatus:
        """What a push and a pull would move."""
        return artifacts.sync_status(name)

    @router.post("/api/remotes/{name}/probe", dependencies=admin)
    def probe(name: Name) -> RemoteView:
        """Judge a remote again: does it honour conditional writes?"""
        return shown(artifacts.remote_probe(name))

    @router.post("/api/remotes/{name}/push", dependencies=move)
    def push(name: Name, body: Transfer) -> SyncReport:
        """Bring a remote up to date."""
        return artifacts.push(name, dry_run=body.dry_run)

    @router.post("/api/remotes/{name}/pull", dependencies=move)
    def pull(name: Name, body: Transfer) -> SyncReport:
        """Take in what a remote has; a pull that fails changes nothing."""
        return artifacts.pull(name, only=body.only, dry_run=body.dry_run)

    return router
