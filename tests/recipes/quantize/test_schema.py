"""What is refused before a job exists, and with which advice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.paths import StatePaths
from engine.recipe.check import CheckContext, Problem
from engine.types.system import EstimateContext
from recipes.quantize.check import check, group_size
from recipes.quantize.estimate import estimate
from recipes.quantize.schema import QuantizeSpec, parse_size


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_hidden_layers": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"0" * 2000)
    return folder


def problems(model: Path | str, tmp_path: Path, **values: Any) -> list[Problem]:
    data = tmp_path / "rows.txt"
    data.write_text("some text\n")
    values.setdefault("eval", {"data": str(data), "neutral": None})
    spec = QuantizeSpec(model=str(model), **values)
    return check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "shrink"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"levels": ["Q4_KM"]}, "Q4_K_M"),
        ({"levels": ["Q8_0", "q8_0"]}, "named twice"),
        ({"levels": []}, "at least 1"),
        ({"levels": ["IQ2_XXS"], "imatrix": False}, "imatrix = false"),
        ({"overrides": {"attn": "Q4_K_M"}}, "no tensor type"),
        ({"overrides": {"(": "Q8_0"}}, "regular expression"),
        ({"format": "gptq", "overrides": {"a": "Q8_0"}}, "belong to format gguf"),
        ({"format": "gptq", "backend": "autoawq"}, "does not make gptq"),
        ({"budget": "four gigs"}, "4 GB"),
        ({"max_kl": 0}, "greater than 0"),
        ({"eval": {"window": 8}}, "greater than or equal to 32"),
        ({"levells": ["Q8_0"]}, "Extra inputs"),
    ],
)
def test_slips_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        QuantizeSpec(model="m", **values)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4 GB", 4_000_000_000), ("3.5GiB", 3758096384), ("512 MiB", 1 << 29), ("7 B", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_importance_is_wanted_where_a_level_needs_it() -> None:
    def wants(**values: Any) -> bool:
        return QuantizeSpec(model="m", **values).wants_importance

    assert not wants()
    assert wants(levels=["Q4_K_M", "IQ2_XS"])
    assert wants(imatrix=True)
    assert not wants(levels=["Q8_0"], imatrix=True)
    assert not wants(format="gptq", imatrix=True)


def test_a_sound_step_has_no_problem(model: Path, tmp_path: Path) -> None:
    assert problems(model, tmp_path) == []
    assert problems("${train.model}", tmp_path) == []
    assert problems(model, tmp_path, format="awq", target="vllm") == []


@pytest.mark.parametrize(
    ("values", "path", "says"),
    [
        ({"target": "vllm"}, ("target",), "vLLM does not load gguf"),
        ({"format": "gptq", "target": "vllm", "bits": 3}, ("bits",), "4 or 8"),
        ({"format": "awq", "target": "vllm", "bits": 8}, ("bits",), "4 bits only"),
        (
            {"format": "gptq", "target": "vllm", "options": {"sym": False}},
            ("options", "sym"),
            "symmetric",
        ),
        (
            {"format": "gptq", "target": "vllm", "options": {"desc_act": True}},
            ("options", "desc_act"),
            "desc_act",
        ),
        ({"format": "gptq", "target": "ollama"}, ("target",), "GGUF only"),
        ({"format": "gptq", "group_size": 128}, ("group_size",), "do not divide"),
        ({"options": {"pur": True}}, ("options", "pur"), "no option"),
        ({"eval": {"data": "no-such-data"}}, ("eval", "data"), "no data"),
    ],
)
def test_targets_and_groups_are_checked(
    values: dict[str, Any], path: tuple[str, ...], says: str, model: Path, tmp_path: Path
) -> None:
    found = {p.path: p for p in problems(model, tmp_path, **values)}
    assert says in found[path].what
    assert found[path].advice


def test_keys_without_effect_are_told(model: Path, tmp_path: Path) -> None:
    def told(**values: Any) -> dict[str, str]:
        found = [p for p in problems(model, tmp_path, **values) if "effect" in p.what]
        return {str(p.path[0]): p.severity for p in found}

    assert told(bits=8, group_size=32) == {"bits": "warning", "group_size": "warning"}
    given = {"levels": ["Q2_K"], "imatrix": True, "intermediate": "F32", "bits": 4}
    expected = dict.fromkeys(("levels", "imatrix", "intermediate"), "warning")
    assert told(format="gptq", **given) == expected
    calibrated = {"calibration": {"tokens": 256}}
    assert told(format="bnb-nf4", bits=8, **calibrated) == {
        "bits": "warning",
        "calibration": "warning",
    }
    assert told(**calibrated) == told(format="w8a8", **calibrated) == {}


def test_a_budget_that_can_not_be_kept_is_refused(model: Path, tmp_path: Path) -> None:
    assert problems(model, tmp_path, budget="1 MB") == []
    (found,) = problems(model, tmp_path, format="awq", budget="1 MB")
    assert found.path == ("budget",)
    assert found.severity == "error"
    assert found.advice


def test_the_architecture_is_checked_from_its_configuration(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "architectures": ["MambaForCausalLM"]})
    )
    found = problems(model, tmp_path)
    assert found[0].path == ("model",)
    assert "LlamaForCausalLM" in found[0].what
    assert problems(model, tmp_path, format="gptq") == []


def test_a_missing_model_is_one_problem(tmp_path: Path) -> None:
    found = problems(tmp_path / "nowhere", tmp_path)
    assert [p.path for p in found] == [("model",)]


def test_group_sizes_divide_every_layer() -> None:
    assert group_size([576, 1536]) == 64
    assert group_size([4096, 11008]) == 128
    assert group_size([100]) is None


def test_the_estimate_grows_with_the_model(model: Path, tmp_path: Path) -> None:
    context = EstimateContext(StatePaths(tmp_path / "home"), "cpu")
    small = estimate(QuantizeSpec(model=str(model)), context)
    (model / "model.safetensors").write_bytes(b"0" * 2_000_000)
    large = estimate(QuantizeSpec(model=str(model)), context)
    assert large.memory_bytes - small.memory_bytes == pytest.approx(4 * 999_000)
    assert large.disk_bytes > small.disk_bytes
    unknown = estimate(QuantizeSpec(model="${train.model}"), context)
    assert unknown.notes


def test_checking_needs_no_heavy_library(model: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from engine.paths import StatePaths\n"
        "from engine.recipe.check import CheckContext\n"
        "from recipes.quantize.check import check\n"
        "from recipes.quantize.schema import QuantizeSpec\n"
        f"spec = QuantizeSpec(model={str(model)!r})\n"
        f"check(spec, CheckContext(StatePaths(Path({str(tmp_path)!r})), Path('.'), 's'))\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'gguf', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
