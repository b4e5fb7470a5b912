"""Every type of llama.cpp: made, exactly as large as foretold, and refused with a reason."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.errors import BadInput
from recipes.gguf.convert import convert
from recipes.gguf.levels import LEVELS, level, tensor_type
from recipes.gguf.quantizer import Settings, plan_size, quantize
from recipes.gguf.runtime import GgufModel, tensor_types
from tests.recipes.gguf.families import save_family


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF whose columns all divide by 256."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    convert(tiny_model, path, dtype="F32")
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF with 64 and 96 columns: no K-quant fits."""
    folder = tmp_path_factory.mktemp("narrow")
    path = folder / "narrow.gguf"
    convert(save_family("llama", folder / "m"), path, dtype="F32")
    return path


def importance(path: Path) -> dict[str, object]:
    import gguf
    import numpy as np

    return {
        t.name: np.linspace(0.5, 2, int(t.shape[0]), dtype=np.float32)
        for t in gguf.GGUFReader(path).tensors
        if len(t.shape) == 2
    }


#: Their tables take llama.cpp up to nine seconds to build, once a process.
DEAR = {"IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XXS", "IQ3_XXS"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in DEAR else ()) for n in LEVELS]
)
def test_every_level_is_made_at_the_foretold_size(name: str, wide: Path, tmp_path: Path) -> None:
    values = importance(wide) if LEVELS[name].needs_imatrix else None
    settings = Settings(LEVELS[name], 1, importance=values)
    planned = plan_size(wide, settings)
    target = tmp_path / "q.gguf"
    quantize(wide, target, settings)
    assert target.stat().st_size == planned.bytes
    with GgufModel(target, context=16) as model:
        assert model.logits([1, 2, 3]).shape == (3, model.n_vocab)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.gguf"]


def test_every_type_that_llama_cpp_makes_is_known() -> None:
    import llama_cpp

    prefix = "LLAMA_FTYPE_"
    theirs = {
        name.removeprefix(prefix).removeprefix("MOSTLY_").removeprefix("ALL_"): value
        for name, value in vars(llama_cpp).items()
        if name.startswith(prefix)
    }
    # a mark of its loader, and a type that its quantizer can't make (files come that way)
    assert theirs.keys() - LEVELS.keys() == {"GUESSED", "NVFP4"}
    assert {name: level.number for name, level in LEVELS.items()} == {n: theirs[n] for n in LEVELS}


def test_levels_without_importance_are_refused_by_llama_cpp(wide: Path, tmp_path: Path) -> None:
    needy = [n for n, found in LEVELS.items() if found.needs_imatrix]
    assert needy
    for name in needy:
        with pytest.raises(BadInput, match="imatrix") as refused:
            quantize(wide, tmp_path / "q.gguf", Settings(LEVELS[name], 1))
        assert "imatrix = true" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_importance_changes_the_result(wide: Path, tmp_path: Path) -> None:
    for name, found in LEVELS.items():
        if found.needs_imatrix or name.startswith(("IQ3", "F", "BF")):
            continue
        quantize(wide, tmp_path / "a.gguf", Settings(found, 1))
        quantize(wide, tmp_path / "b.gguf", Settings(found, 1, importance=importance(wide)))
        same = (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
        assert same != found.gains_imatrix, name


def test_columns_that_do_not_divide_fall_back_and_say_so(narrow: Path, tmp_path: Path) -> None:
    settings = Settings(level("Q4_K_M"), 1)
    planned = plan_size(narrow, settings)
    notes = quantize(narrow, tmp_path / "q.gguf", settings)
    assert notes == planned.fallbacks
    assert "blk.0.attn_q.weight: 64 columns are not divisible by 256, Q4_K became Q5_0" in notes


def test_overrides_choose_single_tensors(wide: Path, tmp_path: Path) -> None:
    import gguf

    overrides = {r"blk\.0\.ffn_up": "Q8_0", "attn_v": "Q5_K"}
    settings = Settings(level("Q4_K_M"), 1, overrides=overrides, embedding_type="Q4_0")
    planned = plan_size(wide, settings)
    quantize(wide, tmp_path / "q.gguf", settings)
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.1.ffn_up.weight"] == "Q4_K"
    assert types["blk.1.attn_v.weight"] == "Q5_K"
    assert types["token_embd.weight"] == "Q4_0"
    assert types == dict(planned.types)


def test_progress_is_told_and_a_stop_leaves_nothing(wide: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize(
        wide,
        tmp_path / "a.gguf",
        Settings(level("Q3_K_M"), 1),
        progress=lambda a, b: seen.append((a, b)),
    )
    assert seen[-1] == (20, 20)
    with pytest.raises(InterruptedError):
        quantize(wide, tmp_path / "b.gguf", Settings(level("IQ3_S"), 1), should_stop=lambda: True)
    for thread in threading.enumerate():
        if thread.name == "quantize":
            thread.join()
    assert not (tmp_path / "b.gguf").exists()


def test_a_corrupt_file_gives_llama_cpps_reason(wide: Path, tmp_path: Path) -> None:
    data = wide.read_bytes()
    for name, bad in (("cut", data[: len(data) // 2]), ("magic", b"NOPE" + data[4:])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(bad)
        with pytest.raises(BadInput) as refused:
            GgufModel(path, context=16)
        assert refused.value.why
        with pytest.raises(BadInput):
            quantize(path, tmp_path / "q.gguf", Settings(level("Q8_0"), 1))
    assert not (tmp_path / "q.gguf").exists()


def test_quantizing_a_quantized_file_must_be_asked_for(wide: Path, tmp_path: Path) -> None:
    quantize(wide, tmp_path / "a.gguf", Settings(level("Q4_0"), 1))
    with pytest.raises(BadInput, match="requantiz"):
        quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", Settings(level("Q2_K"), 1))
    quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", Settings(level("Q2_K"), 1, requantize=True))


def test_names_are_checked_with_a_suggestion() -> None:
    assert level("q4_k_m").name == "Q4_K_M"
    with pytest.raises(BadInput, match="no GGUF type") as unknown:
        level("Q4_KM")
    assert "Q4_K_M" in unknown.value.hint
    with pytest.raises(BadInput, match="no tensor type"):
        tensor_type("Q4_K_M")
    names = tensor_types()
    assert all(tensor_type(n) in names for n in ("Q1_0", "Q2_0", "IQ4_XS", "MXFP4"))
