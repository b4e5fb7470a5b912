"""A backend behind the recipe: quantized, completed, measured by the same rules, published."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import ModelOpsError, StepFailed
from engine.registry import Registry
from recipes.backends.run import normalize
from recipes.quantize.run import run
from tests.recipes.quantize.steps import context, events, spec_for


@pytest.mark.parametrize("chosen", ["bnb-nf4", "bnb-int8"])
def test_bitsandbytes_runs_in_the_main_environment(
    chosen: str, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    ctx = context(tmp_path, spec_for(tiny_model, rows, format=chosen))
    result = run(ctx)
    registry = Registry.open(ctx.paths)
    view = registry.resolve(result.outputs["model"])
    assert view.artifact_type == "quantized"
    folder = registry.materialize(view.id)
    names = {f.name for f in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "report.json"} <= names
    assert (folder / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"]["backend"] == "bitsandbytes"
    assert 0 < result.outputs["kl"] < 0.01
    assert result.outputs["size_bytes"] < (tiny_model / "model.safetensors").stat().st_size / 2


def test_odd_names_are_made_normal(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "gptq_model-4bit-128g.safetensors").write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("rewritten by a library")
    normalize(folder, tiny_model)
    assert sorted(f.name for f in folder.glob("*.safetensors*")) == ["model.safetensors"]
    same = (tiny_model / "tokenizer_config.json").read_text()
    assert (folder / "tokenizer_config.json").read_text() == same


def test_an_output_without_weights_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(StepFailed, match="no safetensors"):
        normalize(folder, tiny_model)


@pytest.mark.slow
def test_gptqmodel_runs_in_its_own_environment(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    ctx = context(
        tmp_path, spec_for(tiny_model, rows, format="gptq", calibration={"data": str(rows)})
    )
    result = run(ctx)
    assert 0 < result.outputs["kl"] < 0.01
    folder = Registry.open(ctx.paths).materialize(result.outputs["model"])
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gptq"
    settings = json.loads((folder / "report.json").read_text())["settings"]
    assert len(settings["lock_sha256"]) == 64
    assert settings["versions"]["gptqmodel"].startswith("7.6")


def test_version_5_configurations_are_put_in_version_4_words(tmp_path: Path) -> None:
    """transformers 4 would read rope_theta = 10000 without a word."""
    import importlib.util

    import recipes.backends.wire as wire

    spec = importlib.util.spec_from_file_location(
        "legacy", Path(str(wire.__file__)).with_name("legacy.py")
    )
    assert spec is not None
    assert spec.loader is not None
    legacy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(legacy)
    config = {
        "dtype": "bfloat16",
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "hidden_size": 8,
    }
    found = legacy.legacy_config(config)
    assert found == {"torch_dtype": "bfloat16", "rope_theta": 100000.0, "hidden_size": 8}
    scaled = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}}
    assert legacy.legacy_config(scaled) == {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    }
    source = tmp_path / "m"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "tokenizer_config.json").write_text("{}")
    folder = legacy.legacy_folder(source)
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 100000.0


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_ends_with_the_same_tensors(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    first = context(tmp_path / "whole", spec_for(tiny_model, rows, format="gptq"))
    whole = Registry.open(first.paths).materialize(run(first).outputs["model"])

    ctx = context(tmp_path / "cut", spec_for(tiny_model, rows, format="gptq"))
    shutil.rmtree(ctx.paths.backends, ignore_errors=True)
    ctx.paths.backends.symlink_to(first.paths.backends)
    scratch = ctx.work_dir / "levels" / "gptq-4bit-g128.scratch"
    killer = threading.Thread(target=_kill_behind, args=(scratch / "checkpoint" / "CURRENT",))
    killer.start()
    with pytest.raises(ModelOpsError):
        run(ctx)
    killer.join()
    assert (scratch / "checkpoint" / "CURRENT").exists()
    again = context(tmp_path / "cut", spec_for(tiny_model, rows, format="gptq"))
    result = Registry.open(again.paths).materialize(run(again).outputs["model"])
    assert any("used again" in str(event) for event in events(again))
    want, have = load_file(whole / "model.safetensors"), load_file(result / "model.safetensors")
    assert want.keys() == have.keys()
    assert all(want[name].equal(have[name]) for name in want)
    assert str(tmp_path) not in (result / "config.json").read_text()
    assert not scratch.exists()


@pytest.mark.slow
def test_llama_cpps_own_converter_makes_the_same_model(rows: Path, tmp_path: Path) -> None:
    """And refuses, with advice, a tokenizer that is nobody's."""
    from engine.backends import find
    from tests.support.tiny_model import build_tiny_model

    options = {"levels": ["F16"], "backend": "llama-cpp-convert"}
    ctx = context(tmp_path, spec_for("smollm2-135m-instruct", rows, **options))
    result = run(ctx)
    assert result.outputs["kl"] < 1e-4
    assert any("llama.cpp's own script" in note for note in result.report[0]["notes"])
    assert find("llama-cpp-convert").sdist

    tiny = build_tiny_model(tmp_path / "tiny")
    with pytest.raises(StepFailed, match="converter failed") as failed:
        run(context(tmp_path, spec_for(tiny, rows, **options), job="j2"))
    assert 'backend = "llama-cpp"' in failed.value.hint


def _kill_behind(mark: Path) -> None:
    """``kill -9`` the worker of this process as soon as it has kept its first layer."""
    deadline = time.monotonic() + 280
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in psutil.Process().children(recursive=True):
        if any("on_gptqmodel" in part for part in process.cmdline()):
            process.kill()
