"""What a plan is frozen on: exact versions instead of moving names, hashes of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.api.data import Data
from engine.recipe import freezing
from engine.registry import Registry
from tests.engine.recipe.conftest import Bench

RECIPE = """\
kind = "finetune"
base = "{base}"
data = {{ train = "{train}", format = "chat" }}
"""


def test_a_moving_dataset_version_becomes_exact(bench: Bench) -> None:
    data = Data(bench.paths)
    data.import_file(bench.folder / "rows.jsonl", "tickets")
    text = RECIPE.format(base="smollm2", train="tickets@latest")
    first = bench.prepare(text)
    exact = first.steps[0].params["data"]["train"]
    assert exact.startswith("tickets@v")
    assert first.data_versions[exact] == exact.partition("@")[2]
    data.import_file(bench.folder / "held.jsonl", "tickets")
    second = bench.prepare(text)
    assert second.steps[0].params["data"]["train"] != exact
    assert second.sha256 != first.sha256
    found = bench.mistake(RECIPE.format(base="smollm2", train="tickets@v99"))
    assert found.line == 3
    assert "99" in found.what


def test_a_stage_becomes_the_manifest_it_names(bench: Bench) -> None:
    adapter = bench.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "smollm2-135m-instruct", "peft_type": "LORA"})
    )
    (adapter / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    view = Registry.open(bench.paths).publish(
        name="helper", artifact_type="adapter", files=adapter, stage="dev"
    )
    text = 'kind = "evaluate"\nmodel = "helper@dev"\ndata = "held.jsonl"\nneutral = "plain.txt"\n'
    plan = bench.prepare(text)
    assert plan.steps[0].params["model"] == view.manifest
    assert plan.data_versions[view.manifest] == view.manifest
    found = bench.mistake(text.replace("@dev", "@prod"))
    assert found.line == 2


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_fingerprint_changes_with_the_file(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(freezing, "_END_BYTES", 1000)
    file = tmp_path / "f"
    file.write_bytes(b"a" * size)
    before = freezing.fingerprint(file)
    assert freezing.fingerprint(file) == before
    file.write_bytes(b"a" * (size - 1) + b"b")
    assert freezing.fingerprint(file) != before
    folder = freezing.fingerprint(tmp_path)
    (tmp_path / "g").write_text("x")
    assert freezing.fingerprint(tmp_path) != folder
