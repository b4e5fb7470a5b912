"""Deployments and chat from outside: start, look, switch, stop, and talk to a model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Conflict, NotFound
from engine.paths import StatePaths
from engine.serving import records
from engine.serving.records import Record
from engine.types.jobs import ENDED_STATES, JobState, JobView
from engine.types.serving import (
    ChatMessage,
    ChatPiece,
    DeploymentState,
    DeploymentView,
    Sampling,
)

if TYPE_CHECKING:
    from engine.api.jobs import Jobs
    from engine.service import Service

_FROM_JOB = {
    JobState.QUEUED: DeploymentState.WAITING,
    JobState.PAUSED: DeploymentState.PAUSED,
    JobState.STOPPING: DeploymentState.STOPPING,
    JobState.FAILED: DeploymentState.FAILED,
    JobState.CANCELLED: DeploymentState.STOPPED,
    JobState.SUCCEEDED: DeploymentState.STOPPED,
}
#: A picture older than this is not believed.
_STALE_S = 15.0


class Serving:
    """The deployments of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._services: dict[str, Service] = {}

    def _jobs(self) -> Jobs:
        from engine.api.jobs import Jobs

        return Jobs(self._paths)

    # -- start and stop ---------------------------------------------------------------------------

    def start(
        self,
        ref: str,
        *,
        name: str = "",
        backend: str = "llama.cpp",
        adapters: Mapping[str, str] | None = None,
        memory: str = "auto",
        threads: int = 0,
        engine: bool = True,
        **settings: Any,
    ) -> DeploymentView:
        """Serve a model. Returns when it is accepted; ``wait_ready`` waits until it answers.

        Args:
            ref: what to serve: a registry reference, a packaged model, a folder or GGUF file.
            name: of the deployment; made from ``ref`` by default.
            backend: ``llama.cpp`` or a plugin's.
            adapters: name -> reference of adapters over the model.
            memory: the share of the device it may use (``"2 GiB"``); ``auto``: by estimate.
            threads: CPU threads of the server (0: all).
            engine: start the engine where none runs.
            settings: further keys of the ``serve`` kind (port, context, idle_minutes, ...).

        Raises:
            Conflict: a deployment of that name runs.
            RecipeInvalid: a setting or the model is refused, with every reason.
        """
        name = records.check_name(name or records.name_for(ref))
        with records.locked(self._paths, name, "start.lock"):
            old = records.load(self._paths, name) if records.exists(self._paths, name) else None
            if old is not None and not self._ended(old):
                raise Conflict(
                    f"the deployment {name!r} exists and runs",
                    hint=f"`modelops-tui serve stop {name}` first, or give it another --name",
                )
            recipe = _recipe(
                {
                    "model": ref,
                    "deployment": name,
                    "backend": backend,
                    "adapters": dict(adapters or {}),
                    "port": old.port if old is not None else 0,
                    **settings,
                },
                {"memory": memory, "threads": threads},
                name,
            )
            return self._submit(name, ref, recipe, old, engine=engine)

    def _submit(
        self, name: str, ref: str, recipe: str, old: Record | None, *, engine: bool
    ) -> DeploymentView:
        from engine.recipe import prepare

        plan = prepare(recipe, paths=self._paths, source_path=Path.cwd() / "serve.toml")
        params = plan.steps[0].params
        record = Record(
            name=name,
            ref=ref,
            backend=params["backend"],
            job_id="",
            host=params["host"],
            port=params["port"],
            created=old.created if old is not None else time.time(),
            recipe=recipe,
            task=params["task"],
            tls=bool(params["tls_certificate"]),
            pinned=bool(params["pinned"]),
            adapters=dict(params["adapters"]),
            context=params["context"],
            idle_minutes=params["idle_minutes"],
            has_key=params["api_key"],
        )
        records.save(self._paths, record)
        if record.has_key:
            records.secret(self._paths, name, "key")
        job = self._jobs().submit(plan)
        # the worker may have been quicker and written the version it serves
        records.change(self._paths, name, lambda now: replace(now, job_id=job.id))
        if engine:
            from engine.api.system import System

            System(self._paths).ensure_engine()
        return self.get(name)

    def stop(self, name: str, *, wait_s: float = 0.0) -> DeploymentView:
        """Let what runs finish, then stop; its record, port and key are kept.

        Raises:
            Conflict: it does not run.
        """
        record = records.load(self._paths, name)
        if record.job_id:
            self._jobs().cancel(record.job_id)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not self._ended(record):
            time.sleep(0.1)
        return self.get(name)

    def restart(self, name: str, *, engine: bool = True) -> DeploymentView:
        """Stop it where it runs, and start it as it was asked for (the stage is looked up anew)."""
        record = records.load(self._paths, name)
        if not self._ended(record):
            self.stop(name, wait_s=60)
        if not self._ended(record):
            raise Conflict(f"{name!r} has not stopped yet", hint="try again in a moment")
        with records.locked(self._paths, name, "start.lock"):
            recipe = _with_port(record)
            return self._submit(name, record.ref, recipe, record, engine=engine)

    def pause(self, name: str) -> DeploymentView:
        """Stop it for a while and give its memory back to others."""
        self._jobs().pause(self._job_id(name))
        return self.get(name)

    def resume(self, name: str) -> DeploymentView:
        """Bring a paused deployment back when its memory is free."""
        self._jobs().resume(self._job_id(name))
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget a stopped deployment, with its key.

        Raises:
            Conflict: it runs.
        """
        record = records.load(self._paths, name)
        if not self._ended(record):
            raise Conflict(
                f"the deployment {name!r} runs", hint=f"`modelops-tui serve stop {name}` first"
            )
        records.remove(self._paths, name)

    # -- look -------------------------------------------------------------------------------------

    def list(self) -> tuple[DeploymentView, ...]:
        """Every deployment, by name."""
        return tuple(self._view(record) for record in records.all_records(self._paths))

    def get(self, name: str) -> DeploymentView:
        """One deployment.

        Raises:
            NotFound: none of that name.
        """
        return self._view(records.load(self._paths, name))

    def key(self, name: str) -> str:
        """Its API key; empty when it asks for none."""
        record = records.load(self._paths, name)
        return records.secret(self._paths, name, "key") if record.has_key else ""

    def log_path(self, name: str) -> Path:
        """The file with everything its servers wrote."""
        return self._paths.job_log(self._job_id(name))

    def wait_ready(self, name: str, timeout_s: float = 120.0) -> DeploymentView:
        """Wait until it answers.

        Raises:
            Conflict: it failed, was stopped, or is not ready in time; the reason is told.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            view = self.get(name)
            if view.state in (DeploymentState.READY, DeploymentState.ASLEEP):
                return view
            over = view.state in (DeploymentState.FAILED, DeploymentState.STOPPED)
            if over or time.monotonic() > deadline:
                raise Conflict(
                    f"the deployment {name!r} is {view.state}",
                    why=view.reason,
                    hint=f"`modelops-tui serve logs {name}`",
                )
            time.sleep(0.03)

    # -- change -----------------------------------------------------------------------------------

    def switch(self, name: str, ref: str) -> DeploymentView:
        """Serve another version without failing a request: beside, checked, switched, drained.

        Raises:
            ModelOpsError: the new version is refused; the old one goes on.
        """
        self._command(name, "switch", ref=ref)
        return self.get(name)

    def rollback(self, name: str) -> DeploymentView:
        """Serve the version before, and stay with it (it is pinned)."""
        self._command(name, "rollback")
        return self.get(name)

    def pin(self, name: str, *, pinned: bool = True) -> DeploymentView:
        """Stay with this version whatever is promoted, or follow the stage again."""
        records.change(self._paths, name, lambda record: replace(record, pinned=pinned))
        return self.get(name)

    def sleep(self, name: str) -> DeploymentView:
        """Unload it now; the next request wakes it."""
        self._command(name, "sleep")
        return self.get(name)

    def wake(self, name: str) -> DeploymentView:
        """Load it again and return when it is ready."""
        self._command(name, "wake")
        return self.get(name)

    def load_adapter(self, name: str, adapter: str, ref: str) -> DeploymentView:
        """Load an adapter into a running deployment."""
        self._command(name, "load", name=adapter, ref=ref)
        return self.get(name)

    def unload_adapter(self, name: str, adapter: str) -> DeploymentView:
        """Unload an adapter from a running deployment."""
        self._command(name, "unload", name=adapter)
        return self.get(name)

    # -- chat -------------------------------------------------------------------------------------

    def find(self, target: str) -> None:
        """Whether ``target`` is a deployment or a model to chat with; nothing is loaded.

        Raises:
            ModelOpsError: it leads nowhere, with the nearest names.
        """
        from engine.models import find_model

        if not (_could_be_name(target) and records.exists(self._paths, target)):
            find_model(target, self._paths)

    def chat(
        self,
        target: str,
        messages: Sequence[ChatMessage | Mapping[str, str]],
        sampling: Sampling | None = None,
    ) -> Iterator[ChatPiece]:
        """Stream an answer: the exact prompt, pieces of text, then the figures.

        Args:
            target: a deployment's name, or any model reference (loaded in a service process that
                is kept for the next turn).
            messages: the conversation so far.
            sampling: how the answer is drawn.

        Raises:
            ModelOpsError: the model can't be loaded or the deployment does not answer.
        """
        turns = [m if isinstance(m, ChatMessage) else ChatMessage(**m) for m in messages]
        sampling = sampling or Sampling()
        if records.exists(self._paths, target) if _could_be_name(target) else False:
            from engine.serving.client import stream_chat

            record = records.load(self._paths, target)
            yield from stream_chat(record.url, self.key(target), record.name, turns, sampling)
            return
        yield from self._chat_here(target, turns, sampling)

    def _chat_here(
        self, target: str, turns: Sequence[ChatMessage], sampling: Sampling
    ) -> Iterator[ChatPiece]:
        from dataclasses import asdict

        from engine.service import Service

        service = self._services.setdefault(target, Service("serve", self._paths))
        for event in service.call(
            "chat",
            model=target,
            messages=[turn.to_json() for turn in turns],
            sampling=asdict(sampling),
        ):
            if "result" not in event:
                yield ChatPiece(event["kind"], event["text"], event.get("stats") or {})

    def close(self) -> None:
        """End the service processes of chats."""
        for service in self._services.values():
            service.close()
        self._services.clear()

    # -- inside -----------------------------------------------------------------------------------

    def _job(self, record: Record) -> JobView | None:
        if not record.job_id:
            return None
        try:
            return self._jobs().get(record.job_id)
        except NotFound:
            return None

    def _job_id(self, name: str) -> str:
        record = records.load(self._paths, name)
        if not record.job_id:
            raise Conflict(f"the deployment {name!r} has no job", hint=f"serve restart {name}")
        return record.job_id

    def _ended(self, record: Record) -> bool:
        job = self._job(record)
        return job is None or job.state in ENDED_STATES

    def _command(self, name: str, command: str, /, **params: Any) -> dict[str, Any]:
        from engine.serving.client import run_command

        record = records.load(self._paths, name)
        job = self._job(record)
        if job is None or job.state is not JobState.RUNNING:
            state = self._view(record).state
            raise Conflict(
                f"the deployment {name!r} does not run",
                why=f"it is {state}",
                hint=f"`modelops-tui serve restart {name}`",
            )
        admin = records.secret(self._paths, name, "admin")
        return run_command(record.url, admin, command, params)

    def _view(self, record: Record) -> DeploymentView:
        job = self._job(record)
        status = records.read_status(self._paths, record.name) or {}
        state, reason = DeploymentState.STOPPED, ""
        live: dict[str, Any] = {}
        if job is not None:
            state = _FROM_JOB.get(job.state, DeploymentState.STARTING)
            reason = job.reason
            why = str((job.error or {}).get("why") or "")
            if state is DeploymentState.FAILED and why and why not in reason:
                reason = f"{reason}: {why}"
            current = status.get("job_id") == job.id and status.get("attempt") == job.attempt
            fresh = time.time() - float(status.get("time", 0)) < _STALE_S
            if job.state is JobState.RUNNING and current and fresh:
                state, reason, live = DeploymentState(status["state"]), status["reason"], status
                if state is DeploymentState.STOPPED:
                    state = DeploymentState.RESTARTING
        key = records.folder(self._paths, record.name) / "key"
        return DeploymentView(
            name=record.name,
            ref=record.ref,
            backend=record.backend,
            state=state,
            reason=reason,
            url=record.url,
            job_id=record.job_id,
            current=record.current,
            previous=record.previous,
            pinned=record.pinned,
            task=record.task,
            adapters=tuple(live.get("adapters", record.adapters)),
            context=record.context,
            share_bytes=self._share(record),
            idle_minutes=record.idle_minutes,
            key_file=str(key) if record.has_key else "",
            pid=live.get("pid"),
            memory_bytes=live.get("memory_bytes"),
            started=job.started if job is not None else None,
            **{name: live[name] for name in _LIVE if name in live},
        )

    def _share(self, record: Record) -> int | None:
        if not record.job_id:
            return None
        from engine.store.schema import open_store

        conn = open_store(self._paths.jobs_db)
        try:
            row = conn.execute(
                "SELECT estimate_bytes FROM steps WHERE job_id=?", (record.job_id,)
            ).fetchone()
        finally:
            conn.close()
        return int(row[0]) if row is not None and row[0] is not None else None


_LIVE = (
    "restarts",
    "requests",
    "failed",
    "active",
    "queued",
    "requests_per_s",
    "tokens_per_s",
    "first_byte_ms",
    "latency_ms",
)


def _could_be_name(text: str) -> bool:
    return "/" not in text and "@" not in text and not text.startswith("sha256:")


def _recipe(keys: Mapping[str, Any], resources: Mapping[str, Any], name: str) -> str:
    """The TOML of a one-step recipe; values at their defaults are left out."""
    lines = ["recipe = 1", f"name = {json.dumps(name)}", 'kind = "serve"']
    tables: list[str] = []
    for key, value in {**keys, "resources": dict(resources)}.items():
        if isinstance(value, Mapping):
            inner = [f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items() if v not in ("", 0)]
            tables += ["", f"[{key}]", *inner] if inner else []
        elif value not in ("", 0, None):
            lines.append(f"{key} = {_toml(value)}")
        elif value is False:
            lines.append(f"{key} = false")
    return "\n".join([*lines, *tables]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _with_port(record: Record) -> str:
    """The record's recipe with the port it got, so that its address stays."""
    lines = [line for line in record.recipe.splitlines() if not line.startswith("port = ")]
    at = lines.index('kind = "serve"') + 1 if 'kind = "serve"' in lines else len(lines)
    return "\n".join([*lines[:at], f"port = {record.port}", *lines[at:]]) + "\n"
