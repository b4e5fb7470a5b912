"""The SDK: its documented examples run, its async streams end, and it costs `--help` nothing."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from engine.api import Workbench
from engine.errors import BadInput, NotFound, RecipeInvalid, StepFailed
from engine.kinds import load_kinds
from engine.types.jobs import ENDED_STATES, JobState
from modelops_tui import Workstation
from modelops_tui.sdk.workstation import in_thread
from tests.faults.harness import PATIENCE, PLUGIN

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    # the others need a deployment and an index: gateway/test_documents.py runs them
    example = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[0]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["jobs"] == ()
    assert "serve" in names["kinds"]


def test_importing_the_package_does_not_import_the_sdk() -> None:
    code = "import sys, modelops_tui; print('modelops_tui.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_an_iterator_in_a_thread_gives_its_values_and_its_error() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise BadInput("no more")

    stream = in_thread(make)
    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(BadInput, match="no more"):
        await anext(stream)


async def test_leaving_early_ends_the_thread() -> None:
    ended = threading.Event()

    def make() -> Iterator[int]:
        try:
            for n in range(10_000):
                time.sleep(0.005)
                yield n
        finally:
            ended.set()

    stream = in_thread(make)
    assert await anext(stream) == 0
    await stream.aclose()
    assert await asyncio.to_thread(ended.wait, PATIENCE)


def test_a_workstation_closes_twice(tmp_path: Path) -> None:
    station = Workstation(tmp_path)
    assert station.serving.list() == ()
    station.close()
    station.close()


def test_closing_ends_every_process_that_was_started(tmp_path: Path) -> None:
    station = Workstation(tmp_path)
    station.data._service._ensure()  # as every check and mask does
    pid = station.data._service.pid
    assert pid is not None
    assert Path(f"/proc/{pid}").exists()
    station.close()
    assert not Path(f"/proc/{pid}").exists()
    # whatever subject comes to have something to close
    subjects = [n for n, kind in vars(Workbench).items() if isinstance(kind, cached_property)]
    closable = {n for n in subjects if hasattr(getattr(station, n), "close")}
    assert closable >= {"data", "rag", "serving", "jobs"}
    closed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in closable:
            patch.setattr(getattr(station, name), "close", lambda name=name: closed.append(name))
        station.close()
    assert set(closed) == closable


async def test_an_index_is_asked_in_an_event_loop(tmp_path: Path) -> None:
    station = Workstation(tmp_path)
    with pytest.raises(NotFound, match="no index"):
        async for _ in station.aask("none", "anything?"):
            pass
    await asyncio.to_thread(station.close)


@pytest.fixture
def probing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workstation]:
    """A state directory whose engine knows the probe kind; the engine is stopped at the end."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    load_kinds.cache_clear()
    with Workstation(tmp_path / "state") as made:
        yield made
        made.system.stop_engine()
    load_kinds.cache_clear()


async def test_a_recipe_is_run_and_followed(probing: Workstation) -> None:
    recipe = 'recipe = 1\nname = "p"\nkind = "probe"\nsteps = 2\n'
    job = await asyncio.to_thread(probing.run, recipe, "steps=3", wait=False, priority=4)
    assert job.priority == 4
    seen = [event async for event in probing.afollow(job.id)]
    assert seen == list(probing.follow(job.id))
    assert {"begun", "ended"} <= {event["type"] for event in seen}
    done = await asyncio.to_thread(probing.wait, job.id, PATIENCE)
    assert done.state is JobState.SUCCEEDED
    assert probing.outputs(job.id)["probe.total"] == 3.0
    with pytest.raises(StepFailed, match="failed"):
        await asyncio.to_thread(probing.run, recipe, "fail_at=0")
    with pytest.raises(RecipeInvalid):
        probing.run('kind = "nonsense"')


def test_data_artifacts_and_promotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n')
    with Workstation(tmp_path / "state") as station:
        version, fresh = station.data.import_file(rows, "tickets")
        assert (fresh, version.rows) == (True, 1)
        assert station.data.rows("tickets@latest").rows[0]["response"] == "b"
        made = station.artifacts.add(rows, name="raw", artifact_type="report")
        assert station.promote("raw@1", "dev").stages == ("dev",)
        assert station.artifacts.resolve("raw@dev").id == made.id
        assert station.artifacts.verify("raw@dev", deep=True).ok
        with pytest.raises(NotFound):
            station.promote("raw@9", "dev")


def test_waiting_has_an_end_and_the_job_goes_on(probing: Workstation) -> None:
    recipe = 'recipe = 1\nname = "p"\nkind = "probe"\nsteps = 1000\nstep_s = 0.1\n'
    job = probing.run(recipe, wait=False)
    with pytest.raises(TimeoutError, match=job.id):
        probing.wait(job.id, 0.3)
    assert probing.jobs.get(job.id).state not in ENDED_STATES
    probing.jobs.cancel(job.id, now=True)
    assert probing.wait(job.id, PATIENCE).state is JobState.CANCELLED
