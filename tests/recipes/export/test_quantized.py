"""Weights that are quantized already are handed over as they are, and proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.registry import Registry
from recipes.export import quantized
from recipes.export.run import run
from recipes.quantize.run import run as quantize
from tests.recipes.export.test_run import context
from tests.recipes.quantize.steps import context as quantize_context
from tests.recipes.quantize.steps import spec_for


@pytest.mark.slow
def test_a_quantized_folder_is_compared_with_what_it_was_made_from(
    tiny_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    registry = Registry.open(StatePaths(home).ensure())
    whole = registry.publish(name="whole", artifact_type="model", files=tiny_model)
    spec = spec_for(whole.id, rows, format="bnb-nf4")
    made = quantize(quantize_context(home, spec, job="j0")).outputs["model"]
    location = resolve_model(made, StatePaths(home))
    assert quantized.quant_method(location) == "bitsandbytes"
    assert quantized.allowed_gap(location) >= 0.1
    target = tmp_path / "out"
    result = run(context(home, made, rows, to=str(target)))
    assert result.report[0]["notes"] == ["compared with whole, through bitsandbytes"]
    proof = json.loads((target / "proof.json").read_text())
    assert proof["passed"]
    assert len(proof["cases"]) == 3
    weights = "model.safetensors"
    assert (target / weights).read_bytes() == (location.path / weights).read_bytes()

    # the proof compares: answers that no noise explains are not handed over
    monkeypatch.setattr(quantized, "allowed_gap", lambda _location: -1.0)
    asked = quantized.Asker.ask

    def other(self: quantized.Asker, *args: object, **more: object) -> dict[str, object]:
        found = asked(self, *args, **more)  # type: ignore[arg-type]
        return {**found, "answers": [[5, *answer[1:]] for answer in found["answers"]]}

    monkeypatch.setattr(quantized.Asker, "ask", other)
    with pytest.raises(BadInput, match="does not behave like its source"):
        run(context(home, made, rows, to=str(tmp_path / "again")))
    assert not (tmp_path / "again").exists()


def test_foreign_weights_go_to_the_backend_that_reads_them(tmp_path: Path) -> None:
    """Without a record of their maker, by the method their configuration names."""
    for method, backend in (
        ("gptq", "gptqmodel"),
        ("awq", "gptqmodel"),
        ("compressed-tensors", "llmcompressor"),
        ("exl3", None),
    ):
        folder = tmp_path / method
        folder.mkdir()
        config = {"quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")
        location = resolve_model(str(folder), StatePaths(tmp_path / "home"))
        found = quantized.loader(location)
        assert (found.name if found else None) == backend
        assert quantized.allowed_gap(location) == 0.1
