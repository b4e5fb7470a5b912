"""Which text calibrates: the recipe's, else what the model was trained on, else the bundled one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.paths import StatePaths
from engine.recipe import prepare
from engine.registry import Registry
from engine.worker.context import StepContext
from recipes.quantize.importance import calibration_stream
from recipes.quantize.run import open_source
from recipes.quantize.texts import Stream
from tests.recipes.quantize.steps import context, events, spec_for
from tests.support.tiny_model import chat_rows, write_jsonl


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "trained.jsonl", chat_rows(30, start=100))


def stream_of(
    home: Path, model: str | Path, job: str, **calibration: Any
) -> tuple[StepContext, Stream]:
    spec = spec_for(model, home, calibration={"tokens": 256, "window": 128, **calibration})
    ctx = context(home, spec, job=job)
    return ctx, calibration_stream(ctx, spec, open_source(ctx, spec))


def tuned(home: Path, base: Path, rows: Path) -> str:
    """A model as a fine-tuning step publishes it, with the frozen plan of its job."""
    paths = StatePaths(home).ensure()
    recipe = f'recipe = 1\nname = "t"\nkind = "finetune"\nbase = {json.dumps(str(base))}\n'
    plan = prepare(f"{recipe}[data]\ntrain = {json.dumps(str(rows))}\n", (), paths)
    job = "000001-aaaa"
    paths.run_dir(job).mkdir(parents=True)
    (paths.run_dir(job) / "plan.json").write_text(json.dumps(plan.to_json()))
    run = {"job": job, "step": plan.steps[0].name, "data": [rows.name]}
    registry = Registry.open(paths)
    return registry.publish(name="tuned", artifact_type="model", files=base, run=run).id


def test_the_training_data_calibrates(tiny_model: Path, trained: Path, tmp_path: Path) -> None:
    model = tuned(tmp_path / "h", tiny_model, trained)
    _ctx, found = stream_of(tmp_path / "h", model, "j1")
    assert found.name == "trained.jsonl"
    assert len(found.ids) == 256
    assert f"256 tokens of its first {found.rows} rows" in found.describe()
    # the same training, one step further: registered under another name
    registry = Registry.open(StatePaths(tmp_path / "h"))
    other = registry.register(model, name="other").id
    assert other != model
    _ctx, found = stream_of(tmp_path / "h", other, "j2")
    assert found.name == "trained.jsonl"


def test_a_dataset_version_is_found_by_the_record_alone(
    tiny_model: Path, trained: Path, tmp_path: Path
) -> None:
    """As after a pull from another machine: the job is not here, the dataset is."""
    from engine.data.versions import import_rows

    paths = StatePaths(tmp_path / "h").ensure()
    import_rows(trained, "rows", paths)
    name = "rows@v1"
    run = {"job": "000009-zzzz", "step": "train", "data": [name]}
    registry = Registry.open(paths)
    model = registry.publish(name="tuned", artifact_type="model", files=tiny_model, run=run).id
    _ctx, found = stream_of(tmp_path / "h", model, "j1")
    assert found.name == "rows"


def test_the_recipe_comes_first_and_the_bundled_text_last(
    tiny_model: Path, trained: Path, rows: Path, tmp_path: Path
) -> None:
    model = tuned(tmp_path / "h", tiny_model, trained)
    _ctx, given = stream_of(tmp_path / "h", model, "j1", data=str(rows))
    assert given.name == rows.name
    _ctx, bundled = stream_of(tmp_path / "h", tiny_model, "j2")
    assert bundled.name == "mixed"
    # the training data is gone: the bundled text, and a warning
    shutil.move(trained, tmp_path / "elsewhere.jsonl")
    ctx, left = stream_of(tmp_path / "h", model, "j3")
    assert left.name == "mixed"
    assert any("trained.jsonl is gone" in str(event) for event in events(ctx))
