"""The engine's lifecycle, the devices, the disk, the settings and the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.paths import StatePaths
from engine.types.system import Check, DeviceView, DiskUse, EngineStatus, LaneView

if TYPE_CHECKING:
    from engine.settings import SettingView


class System:
    """The machine and the engine of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    # -- engine -----------------------------------------------------------------------------------

    def ensure_engine(self) -> EngineStatus:
        """Start the engine when none runs; replace an older one (its runs go on).

        Raises:
            EngineUnavailable: it could not be started; the reason is the end of its log.
        """
        from engine.daemon import client

        client.ensure(self._paths)
        return self.engine_status(client.READY_S)

    def engine_status(self, timeout: float = 5.0) -> EngineStatus:
        """What the engine says of itself, or that none runs (or answers in ``timeout`` seconds)."""
        from engine.daemon import client

        exists = self._paths.root.exists()
        answer = client.ask(self._paths, {"op": "status"}, timeout) if exists else None
        if answer is None:
            return EngineStatus(False, state_dir=str(self._paths.root), message="no engine runs")
        lanes = tuple(
            LaneView(
                name=lane["name"],
                job_id=lane.get("job_id"),
                attempt=lane.get("attempt"),
                shares=tuple(lane.get("shares", ())),
            )
            for lane in answer.get("lanes", ())
        )
        return EngineStatus(
            running=True,
            pid=answer.get("pid"),
            version=answer.get("version"),
            protocol=answer.get("protocol"),
            started=answer.get("started"),
            memory_bytes=answer.get("memory_bytes"),
            cpu_seconds=answer.get("cpu_seconds"),
            state_dir=str(answer["state_dir"]),
            lanes=lanes,
            queued=int(answer.get("queued", 0)),
            active=int(answer.get("active", 0)),
        )

    def stop_engine(self, timeout: float = 60.0) -> bool:
        """Ask the engine to leave; running jobs go on and are adopted by the next engine.

        Args:
            timeout: seconds until it must be gone.

        Returns:
            False when no engine ran.
        """
        from engine.daemon import client

        return client.stop(self._paths, timeout)

    def restart_engine(self) -> EngineStatus:
        """Replace the engine; running jobs go on."""
        from engine.daemon import client

        client.stop(self._paths)
        client.start(self._paths)
        return self.engine_status(client.READY_S)

    def install_engine(self) -> Path:
        """Write and enable a systemd user unit (needs a user bus; see ``doctor``).

        Raises:
            Refused: this machine or session has no user service manager.
        """
        from engine.daemon.systemd import install

        return install(self._paths)

    def freeze(self, job_id: str, *, thaw: bool = False) -> bool:
        """SIGSTOP a running job's processes (they keep their memory); ``thaw`` lets them go on."""
        from engine.daemon import client

        request = {"op": "thaw" if thaw else "freeze", "job": job_id}
        answer = client.ask(self._paths, request, client.READY_S)
        return bool(answer and answer.get("ok"))

    # -- machine ----------------------------------------------------------------------------------

    def devices(self) -> tuple[DeviceView, ...]:
        """The GPUs and the CPU, with who holds their memory."""
        from engine.devices.probe import devices

        return tuple(devices())

    def disk(self) -> tuple[DiskUse, ...]:
        """What takes the space of the state directory, largest first."""
        from engine.telemetry.disk import disk_use

        return disk_use(self._paths)

    def doctor(self) -> tuple[Check, ...]:
        """Look at everything that jobs depend on; each finding says what to do."""
        from engine.telemetry.doctor import examine

        return examine(self._paths)

    # -- settings ---------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """``config.toml`` as nested tables, defaults of the engine's own settings included."""
        from dataclasses import asdict

        from engine.daemon.settings import EngineSettings
        from engine.settings import read

        return {**read(self._paths), "engine": asdict(EngineSettings.load(self._paths))}

    def setting_views(self) -> tuple[SettingView, ...]:
        """Every setting with its value, default and meaning.

        Raises:
            BadInput: ``config.toml`` is not valid.
        """
        from engine.settings import views

        return views(self._paths)

    def set_setting(self, key: str, value: Any) -> None:
        """Write one setting (``engine.grace_s``) and keep the file's comments.

        Raises:
            BadInput: the key or the value is not valid.
        """
        from engine.settings import set_setting

        set_setting(self._paths, key, value)

    def unset_setting(self, key: str) -> bool:
        """Restore a setting's default; False when it was not set.

        Raises:
            BadInput: there is no such setting.
        """
        from engine.settings import unset_setting

        return unset_setting(self._paths, key)
