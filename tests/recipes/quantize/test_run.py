"""The step end to end on the tiny model: ladder, gate, budget, stop and resume, publication."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import BadInput, DoesNotFit, StepFailed
from engine.registry import Registry
from engine.worker.context import Stopped
from recipes.gguf.runtime import GgufModel
from recipes.quantize.run import run
from tests.recipes.quantize.steps import context, events, spec_for


def test_a_ladder_is_measured_proven_and_published(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows, levels=["Q4_K_M", "Q8_0", "F16"], imatrix=True)
    ctx = context(tmp_path, spec)
    result = run(ctx)
    registry = Registry.open(ctx.paths)
    models = json.loads(result.outputs["models"])
    assert [m["level"] for m in models] == ["Q4_K_M", "Q8_0", "F16"]
    assert result.outputs["model"] == models[0]["manifest"]
    view = registry.resolve(result.outputs["model"])
    assert view.artifact_type == "quantized"
    folder = registry.materialize(view.id)
    assert sorted(
        f.name for f in folder.iterdir() if not f.name.startswith((".", "model.sig"))
    ) >= [
        "Modelfile",
        "model-Q4_K_M.gguf",
    ]
    report = json.loads((folder / "report.json").read_text())
    assert report["size_bytes"] == (folder / "model-Q4_K_M.gguf").stat().st_size
    assert report["settings"]["importance"] is True
    by_level = {
        r[0]: dict(zip(result.report[0]["columns"], r, strict=True))
        for r in result.report[0]["rows"]
    }
    assert by_level["F16"]["KL mean"] <= by_level["Q8_0"]["KL mean"] < by_level["Q4_K_M"]["KL mean"]
    assert 5 < by_level["Q4_K_M"]["bits/w"] < 5.6
    assert result.outputs["kl"] == pytest.approx(by_level["Q4_K_M"]["KL mean"], abs=1e-5)
    assert {p["name"] for p in result.report[0]["chart"]["points"] if p["front"]}
    assert "conversion proven" in " ".join(result.report[0]["notes"])
    inexact = {name for name, row in by_level.items() if not row["round trip"].startswith("2/2")}
    explained = {n.split(":")[0] for n in result.report[0]["notes"] if "round trip passed" in n}
    assert explained == inexact, "each level whose answers differ says what that means"
    assert ("passed: " in registry.manifest(view.id).card) == ("Q4_K_M" in inexact)
    assert events(ctx, "table")
    phases = [e["name"] for e in events(ctx, "phase")]
    assert phases.count("loading the source") == 1, "reference, answers and importance in one load"
    assert {e["name"] for e in events(ctx, "artifact")} == {"Q4_K_M", "Q8_0", "F16"}
    with GgufModel(folder / "model-Q4_K_M.gguf", context=16) as model:
        assert model.meta("tokenizer.chat_template")
    left = sum(f.stat().st_size for f in ctx.work_dir.rglob("*") if f.is_file())
    assert left < 200_000, "the step leaves its scratch behind"


def test_a_second_run_gives_the_same_artifacts(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows)
    first = run(context(tmp_path, spec))
    again = run(context(tmp_path, spec))
    assert first.outputs["models"] == again.outputs["models"]


def test_a_stop_keeps_what_is_done_and_the_next_attempt_goes_on(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows, imatrix=True)
    ctx = context(tmp_path, spec)
    told = ctx.phase

    def stop_at_the_second_level(name: str) -> None:
        told(name)
        if name == "quantizing to Q8_0":
            ctx._stop.set()

    ctx.phase = stop_at_the_second_level  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(ctx)
    assert (ctx.work_dir / "levels" / "Q4_K_M.gguf").is_file()
    second = context(tmp_path, spec)
    result = run(second)
    phases = [e["name"] for e in events(second, "phase")]
    again = phases[phases.index("quantizing to Q8_0") :]
    assert "quantizing to Q4_K_M" not in again
    assert not [p for p in again if p.startswith(("predicting", "converting", "loading"))]
    assert len(json.loads(result.outputs["models"])) == 2


def test_a_stop_during_the_source_pass_resumes_the_importance_matrix(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    import numpy as np

    spec = spec_for(tiny_model, rows, levels=["Q4_K_M"], imatrix=True)
    whole = context(tmp_path / "whole", spec)
    run(whole)
    cut = context(tmp_path / "cut", spec)
    tell = cut.progress
    seen: list[float] = []

    def stop_in_calibration(done: float, total: float | None, unit: str, **fields: object) -> None:
        tell(done, total, unit, **fields)
        phases = [e["name"] for e in events(cut, "phase")]
        if phases[-1] == "computing the importance matrix":
            seen.append(done)
            if len(seen) == 2:
                cut._stop.set()

    cut.progress = stop_in_calibration  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(cut)
    assert (cut.work_dir / "importance.state.npz").is_file()
    second = context(tmp_path / "cut", spec)
    run(second)
    with (
        np.load(whole.work_dir / "importance.npz") as a,
        np.load(second.work_dir / "importance.npz") as b,
    ):
        assert a.files == b.files
        assert len(a.files) == 14
        for name in a.files:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5)


def test_the_gate_fails_the_step_with_the_figures(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows, levels=["Q2_K", "Q8_0"], max_kl=1e-4)
    ctx = context(tmp_path, spec)
    result = run(ctx)
    assert [m["level"] for m in json.loads(result.outputs["models"])] == ["Q8_0"]
    strict = context(tmp_path / "b", spec_for(tiny_model, rows, levels=["Q2_K"], max_kl=1e-9))
    with pytest.raises(StepFailed, match="every level costs more") as failed:
        run(strict)
    assert "Q2_K" in failed.value.why
    assert events(strict, "table")
    assert not Registry.open(strict.paths).list()


def test_the_budget_is_kept_before_any_work(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    spec = spec_for(tiny_model, rows, levels=["Q8_0", "Q4_K_M", "Q2_K"], budget="1 MB")
    ctx = context(tmp_path, spec)
    result = run(ctx)
    assert [m["level"] for m in json.loads(result.outputs["models"])] == ["Q4_K_M", "Q2_K"]
    assert result.outputs["size_bytes"] <= 1e6
    assert any("Q8_0 is left out" in e["text"] for e in events(ctx, "note"))
    with pytest.raises(DoesNotFit, match="no level fits"):
        run(context(tmp_path / "b", spec_for(tiny_model, rows, budget="10 KB")))


def test_a_wrong_conversion_is_caught_before_anything_is_published(
    tiny_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotary permutation is left out: every tensor is there, the model is wrong."""
    import dataclasses

    from recipes.gguf import families

    broken = {
        name: dataclasses.replace(family, change=lambda _name, _config: None)
        for name, family in families.BY_CLASS.items()
    }
    monkeypatch.setattr(families, "BY_CLASS", broken)
    loud = tmp_path / "loud"
    _louder(tiny_model, loud)
    ctx = context(tmp_path / "home", spec_for(loud, rows))
    with pytest.raises(BadInput, match="does not predict as its source"):
        run(ctx)
    assert not Registry.open(ctx.paths).list()


def _louder(source: Path, target: Path) -> None:
    """The tiny model with weights large enough that its attention matters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.data *= 8 if "q_proj" in name or "k_proj" in name else 3
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def test_the_next_run_is_compared_with_the_last(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    first = context(tmp_path, spec_for(tiny_model, rows))
    assert len(run(first).report) == 1
    second = context(tmp_path, spec_for(tiny_model, rows, overrides={"ffn_down": "Q8_0"}), job="j2")
    table = run(second).report[1]
    assert table["title"] == "Change against the last run"
    changes = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert changes["Q4_K_M"]["MB"] > 0
    assert changes["Q4_K_M"]["KL mean"] < 0
    assert changes["Q8_0"]["MB"] == 0
