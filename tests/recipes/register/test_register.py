"""The register step, run as the worker runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import IntegrityError
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.registry import Registry
from engine.worker.context import StepContext
from recipes.register.check import check
from recipes.register.run import run
from recipes.register.schema import RegisterSpec
from tests.support.tampering import write_over


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(8)
    )
    return folder


def context(paths: StatePaths, **params: object) -> StepContext:
    paths.run_dir("job1").mkdir(parents=True, exist_ok=True)
    return StepContext(
        job_id="job1",
        job_name="recipe",
        step="publish",
        attempt=1,
        kind="register",
        params=RegisterSpec.model_validate({"kind": "register", **params}),
        paths=paths,
        work_dir=paths.step_work("job1", "publish"),
        recipe_sha256="ab" * 32,
        recipe_dir=None,
        threads=1,
        device="cpu",
    )


def test_a_step_output_gets_a_name(paths: StatePaths, model: Path) -> None:
    registry = Registry.open(paths)
    source = registry.publish(
        name="recipe.train", artifact_type="model", files=model, key="k", metrics={"loss": 2.0}
    )
    ctx = context(paths, model=source.id, name="support-bot", stage="staging", tags=["demo"])
    result = run(ctx)
    view = registry.resolve("support-bot@staging")
    assert result.outputs == {"model": view.id, "version": "1"}
    assert view.parents == (("registered_from", source.id),)
    assert view.metrics == {"loss": 2.0}
    assert view.tags == ("demo",)
    table = {row[0]: row[1] for row in result.report[0]["rows"]}
    assert table["stage"] == "staging"
    assert table["verified"].startswith("yes")
    events = [json.loads(line) for line in paths.job_events("job1").read_text().splitlines()]
    assert {"artifact", "table", "phase"} <= {event["type"] for event in events}
    # a retried attempt goes on with what the first one published
    assert run(context(paths, model=source.id, name="support-bot")).outputs == result.outputs
    assert len(registry.list()) == 1


def test_a_folder_is_registered(paths: StatePaths, model: Path) -> None:
    run(context(paths, model=str(model), name="mine", stage="none", license="mit", version="1.0"))
    view = Registry.open(paths).resolve("mine@1.0")
    assert (view.stages, view.license, view.artifact_type) == ((), "MIT", "model")


def test_tampered_sources_are_refused(paths: StatePaths, model: Path) -> None:
    registry = Registry.open(paths)
    source = registry.publish(name="r.train", artifact_type="model", files=model, key="k")
    blob = max(registry.layout.blobs.iterdir(), key=lambda p: p.stat().st_size)
    write_over(blob, bytes(blob.stat().st_size))
    with pytest.raises(IntegrityError):
        run(context(paths, model=source.id, name="bot"))
    assert registry.list() == ()


def problems(paths: StatePaths, **params: object) -> dict[str, str]:
    spec = RegisterSpec.model_validate({"kind": "register", **params})
    found = check(spec, CheckContext(paths=paths, recipe_dir=paths.root, step_name="publish"))
    return {str(p.path[0]): p.what for p in found}


def test_the_check(paths: StatePaths, model: Path) -> None:
    assert problems(paths, model="${train.model}", name="bot") == {}
    assert problems(paths, model=str(model), name="bot", license="apache-2.0") == {}
    found = problems(
        paths, model="/nowhere", name="bot", stage="production", license="my own words"
    )
    assert set(found) == {"model", "stage", "license"}
    assert not paths.registry.exists()


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 200])
def test_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        RegisterSpec.model_validate({"kind": "register", "model": "m", "name": name})
