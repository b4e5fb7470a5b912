"""The run function of ``serve``: owns the public port for as long as the deployment is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.devices.needs import parse_bytes
from engine.errors import DoesNotFit, ModelOpsError
from engine.kinds import load_function
from engine.models import ModelLocation, resolve_model
from engine.plugins import extensions
from engine.serving import records, warm
from engine.serving.figures import Figures
from engine.serving.host import Host, HostSettings
from engine.serving.launch import Launch, LaunchRequest, free_port
from engine.serving.ports import listen
from engine.types.serving import DeploymentState, ServedVersion
from engine.worker.checkpoints import mark_complete, prune
from engine.worker.context import StepContext, StepResult
from recipes.serve.schema import ServeSpec

if TYPE_CHECKING:
    from engine.serving.front import Front

#: Seconds between looks at the server, and between pictures for `serve list`.
_TICK_S = 0.2
_PICTURE_S = 1.0
#: How long the front lets the server's start go before its own.
_FIRST_S = 0.5
#: Seconds between looks at the stage that is followed.
_FOLLOW_S = 3.0
#: Of the grace period: how long a stopped deployment goes on with what it has begun.
_DRAIN_S = 20.0


def run(ctx: StepContext) -> StepResult:
    """Serve until stopped.

    Raises:
        Conflict: another job serves this deployment, or the port is taken.
        ModelOpsError: the model can't be verified, found or started.
        Stopped: a stop was asked for.
    """
    import uvloop

    spec: ServeSpec = ctx.params  # type: ignore[assignment]
    try:
        record = ensure_record(ctx, spec)
        with records.locked(ctx.paths, record.name, "serving.lock", wait=False):
            deployment = Deployment(ctx, spec, record)
            try:
                uvloop.run(deployment.serve())
            finally:
                deployment.picture(DeploymentState.STOPPED)
    finally:
        warm.discard()
    ctx.raise_stopped()
    return StepResult({})


def ensure_record(ctx: StepContext, spec: ServeSpec) -> records.Record:
    """The record of this deployment, made here when the recipe was run without `serve start`."""
    name = records.check_name(spec.deployment or records.name_for(ctx.job_name))
    if records.exists(ctx.paths, name):
        return records.change(ctx.paths, name, lambda old: replace(old, job_id=ctx.job_id))
    recipe = ctx.paths.run_dir(ctx.job_id) / "recipe.toml"
    record = records.Record(
        name=name,
        ref=spec.model,
        backend=spec.backend,
        job_id=ctx.job_id,
        host=spec.host,
        port=spec.port,
        created=time.time(),
        recipe=recipe.read_text() if recipe.is_file() else "",
        task=spec.task,
        tls=bool(spec.tls_certificate),
        pinned=spec.pinned,
        adapters=dict(spec.adapters),
        context=spec.context,
        idle_minutes=spec.idle_minutes,
        has_key=spec.api_key,
    )
    records.save(ctx.paths, record)
    return record


class Deployment:
    """One deployment from the first look at its model to the last request."""

    def __init__(self, ctx: StepContext, spec: ServeSpec, record: records.Record) -> None:
        self.ctx = ctx
        self.spec = spec
        self.name = record.name
        self.figures = Figures()
        self._pictured = 0.0
        self._told: tuple[int, int] = (0, 0)
        self._shown: DeploymentState | None = None
        self._tried = ""
        self._problem = ""
        self._backend = extensions("serving backend").get(spec.backend)
        self.socket = listen(record.host, record.port)
        port = int(self.socket.getsockname()[1])
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        self.record = records.change(
            ctx.paths, self.name, lambda old: replace(old, port=port, job_id=ctx.job_id)
        )
        # of the record: what was loaded or unloaded live outlives a killed worker
        self.adapters: dict[str, str] = dict(record.adapters)
        version = record.current or self.version_of(spec.model)
        self.host = Host(
            HostSettings(
                name=self.name,
                task=spec.task,
                idle_s=spec.idle_minutes * 60,
                max_queue=spec.max_queue,
            ),
            version,
            self.prepare,
            self.figures,
            ctx.paths.job_log(ctx.job_id),
            self.keep_version,
            self.require_room,
        )

    # -- versions ---------------------------------------------------------------------------------

    def version_of(self, ref: str) -> ServedVersion:
        """The version that ``ref`` names now, for the record."""
        location = resolve_model(ref, self.ctx.paths)
        name = location.name
        if location.manifest:
            view = self.ctx.registry().resolve(location.manifest)
            name = f"{view.name} {view.version}"
        return ServedVersion(location.manifest or ref, name, time.time())

    def prepare(self, version: ServedVersion) -> Launch:
        """Find and verify the files of ``version`` and say how its server is started.

        Raises:
            IntegrityError: an artifact's bytes are not what was signed.
        """
        # its libraries load while the model is found, verified and converted
        process = warm.take(self.spec.backend)
        try:
            return replace(self._launch(version), warm=process)
        except BaseException:
            if process is not None:
                process.kill()
            raise

    def _launch(self, version: ServedVersion) -> Launch:
        began = time.monotonic()
        location = resolve_model(version.model, self.ctx.paths)
        adapters = {name: self._adapter(ref) for name, ref in self.adapters.items()}
        request = LaunchRequest(
            name=self.name,
            location=location,
            adapters=adapters,
            paths=self.ctx.paths,
            work_dir=self.ctx.work_dir,
            port=free_port(),
            key=secrets.token_urlsafe(24),
            task=self.spec.task,
            context=self.spec.context,
            threads=self.ctx.threads,
            device=self.ctx.device,
            share_bytes=self._share(),
            options=self._options(),
        )
        launch: Launch = load_function(self._backend.launch)(request)
        self.ctx.note(f"starting {version.name} (verified in {time.monotonic() - began:.2f} s)")
        return launch

    def keep_adapters(self, adapters: dict[str, str]) -> None:
        """Adapters were loaded or unloaded live: write it down."""
        self.adapters = adapters
        self.record = records.change(
            self.ctx.paths, self.name, lambda old: replace(old, adapters=adapters)
        )
        # who asked for it looks now, not when the next picture is due
        self._shown = None
        self.picture()

    def _adapter(self, ref: str) -> ModelLocation:
        return resolve_model(ref, self.ctx.paths)

    def _share(self) -> int | None:
        """The memory that was declared; None: whatever was estimated."""
        declared = self.spec.resources.memory
        return None if declared == "auto" else parse_bytes(declared)

    def _options(self) -> dict[str, Any]:
        own = self.spec.llama_cpp if self.spec.backend == "llama.cpp" else self.spec.options
        return dict(own)

    def keep_version(self, version: ServedVersion) -> None:
        """A switch happened: write it down."""
        self.record = records.change(self.ctx.paths, self.name, lambda old: old.serving(version))
        self.ctx.note(f"now serving {version.name}")

    def require_room(self, version: ServedVersion) -> None:
        """Two versions run side by side for a moment: is there memory for the second?

        Raises:
            DoesNotFit: there is not; the rule is never to risk what runs.
        """
        from engine.devices.probe import devices
        from engine.queue.schedule import gib
        from engine.types.system import EstimateContext
        from recipes.serve.estimate import estimate

        spec = self.spec.model_copy(update={"model": version.model})
        need = estimate(spec, EstimateContext(self.ctx.paths, self.ctx.device)).memory_bytes
        on_gpu = self.ctx.device == "cuda"
        free = max(
            (d.memory_free for d in devices() if d.lane.startswith("gpu-") == on_gpu), default=0
        )
        if need > free:
            raise DoesNotFit(
                f"there is no room to start {version.name} beside what runs",
                why=f"it needs {gib(need)}, {gib(free)} are free",
                hint=f"stop something, or `modelops-tui serve restart {self.name}` (with a pause)",
            )

    # -- serving ----------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Run the front and the server behind it until a stop is asked for.

        Raises:
            ModelOpsError: the server can't be started.
        """
        self.ctx.phase("starting the server")
        # first of all: the front's libraries load while the server loads the model; before that
        # they would hold up the thread that finds it
        self.host.wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.host.begun.wait(), _FIRST_S)
        front = self._front()
        server = _web_server(front, self.spec)
        serving = asyncio.create_task(server.serve(sockets=[self.socket]))
        try:
            await self._watch(serving)
        finally:
            await self.host.close(_DRAIN_S)
            server.should_exit = True
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(serving), 5)
            self.picture(DeploymentState.STOPPED)

    def _front(self) -> Front:
        from engine.serving.front import Front, FrontSettings
        from recipes.serve.commands import Commands

        return Front(
            self.host,
            FrontSettings(
                key=records.secret(self.ctx.paths, self.name, "key") if self.spec.api_key else "",
                admin=records.secret(self.ctx.paths, self.name, "admin"),
                max_body=int(self.spec.max_request_mb * (1 << 20)),
            ),
            lambda: [self.name, *self.adapters],
            Commands(self).table(),
        )

    async def _watch(self, serving: asyncio.Task[None]) -> None:
        followed = time.monotonic()
        following: asyncio.Task[None] | None = None
        was = None
        while not self.ctx.should_stop:
            self.host.moved.clear()
            await self.host.tick()
            if serving.done():
                serving.result()
                return
            if self.host.state is not was:
                was = self.host.state
                self._changed(was)
            self.picture()
            if time.monotonic() - followed > _FOLLOW_S and (following is None or following.done()):
                followed = time.monotonic()
                following = asyncio.create_task(self.follow())
            # a new state is shown at once: somebody waits for it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.host.moved.wait(), _TICK_S)
        if following is not None:
            following.cancel()

    def _changed(self, state: DeploymentState) -> None:
        self.ctx.phase(f"{state}{': ' if self.host.reason else ''}{self.host.reason}")
        if state is DeploymentState.READY:
            records.change(self.ctx.paths, self.name, lambda old: old.serving(self.host.version))
            self._mark_progress()

    def _mark_progress(self) -> None:
        """Tell the engine that this attempt got somewhere: only servers that never start fail."""
        folder = self.ctx.checkpoints_dir / f"checkpoint-{self.ctx.attempt}"
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "ready").write_text(f"{self.host.version.model}\n")
            mark_complete(folder, self.ctx.recipe_sha256)
            prune(self.ctx.checkpoints_dir, 1)

    async def follow(self) -> None:
        """Where a stage is followed, switch to what it holds now; a bad version is tried once."""
        record = records.load(self.ctx.paths, self.name)
        if record.pinned or "@" not in record.ref:
            return
        try:
            version = await asyncio.to_thread(self.version_of, record.ref)
            if version.model in (self.host.version.model, self._tried):
                return
            self._tried = version.model
            self.ctx.note(f"{record.ref} is now {version.name}: switching")
            await self.host.switch(version)
            self._tried = ""
        except ModelOpsError as error:
            if self._problem != str(error):
                self._problem = str(error)
                self.ctx.note(f"not switched: {error}", "warning")

    def picture(self, state: DeploymentState | None = None) -> None:
        """Write ``status.json`` and the events: at most once a second, and when the state moves."""
        now, state = time.monotonic(), state or self.host.state
        if now - self._pictured < _PICTURE_S and state is self._shown:
            return
        self._pictured, self._shown = now, state
        server = self.host.server
        figures = self.figures.to_json()
        records.write_status(
            self.ctx.paths,
            self.name,
            {
                "job_id": self.ctx.job_id,
                "attempt": self.ctx.attempt,
                "state": str(state),
                "reason": self.host.reason,
                "time": time.time(),
                "pid": server.pid if server else None,
                "memory_bytes": server.memory_bytes() if server else None,
                "restarts": self.host.restarts,
                "live_adapters": bool(server and server.launch.live_adapters),
                "adapters": list(self.adapters),
                **figures,
            },
        )
        told = (self.figures.requests, self.figures.tokens)
        if told != self._told:
            self._told = told
            self.ctx.event(
                "metrics", done=self.figures.requests, tokens_per_s=figures["tokens_per_s"]
            )


def _web_server(front: Front, spec: ServeSpec) -> Any:
    import uvicorn

    from engine.serving.protocol import HttpProtocol

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # TERM belongs to the worker: it drains first
            yield

    tls: dict[str, Any] = {}
    if spec.tls_certificate:
        tls = {
            "ssl_certfile": str(Path(spec.tls_certificate).expanduser()),
            "ssl_keyfile": str(Path(spec.tls_key).expanduser()),
        }
    return Server(
        uvicorn.Config(
            front,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=5,
            **tls,
        )
    )
