"""The merge kind: from a PEFT folder to a whole, registered model."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Conflict
from engine.models import ModelLocation, resolve_model
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.registry import Registry
from recipes.loading import load_causal_lm, load_tokenizer
from recipes.merge.check import check
from recipes.merge.schema import MergeSpec
from tests.support.step import run_step


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False)
    base = load_causal_lm(ModelLocation("hf", tiny_model, None, "tiny"), torch.float32)
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_peft_folder_becomes_a_model(tmp_path: Path, adapter: Path) -> None:
    import torch

    result = run_step(tmp_path / "home", "merge", {"model": str(adapter), "dtype": "fp32"})
    paths = StatePaths(tmp_path / "home")
    merged = resolve_model(str(result.outputs["model"]), paths)
    assert merged.kind == "hf"
    view = Registry.open(paths).resolve(merged.manifest or "")
    assert [rel for rel, _ in view.parents] == ["base"]
    tokenizer = load_tokenizer(merged, paths=paths)
    ids = tokenizer("the work", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        whole = load_causal_lm(merged, torch.float32, paths=paths)(ids).logits
        parts = load_causal_lm(resolve_model(str(adapter), paths), torch.float32)(ids).logits
    assert float((whole - parts).abs().max()) < 1e-4


def test_a_whole_model_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    spec = MergeSpec(model=str(tiny_model))
    (found,) = check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "merge"))
    assert "is no adapter" in found.what
    with pytest.raises(Conflict, match="is no adapter"):
        run_step(tmp_path / "home", "merge", {"model": str(tiny_model)})
