"""What a deployment can be asked for: adapters, embeddings, TLS, sleep, shares; and bad input."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Conflict, ModelOpsError
from engine.recipe import prepare
from engine.types.serving import DeploymentState
from modelops_tui import Workstation
from tests.recipes.serve.asking import QUESTION, post, reason_of, servers, text_of

SMALL: dict[str, Any] = {"threads": 1, "context": 256, "memory": "400 MiB"}


def adapter(folder: Path, base: Path, *, seed: int = 0, width: int = 256) -> Path:
    """A LoRA over the first query projection, large enough to change every answer."""
    import numpy as np
    from safetensors.numpy import save_file

    generator = np.random.default_rng(seed)
    config = json.loads((base / "config.json").read_text())
    rows = config["num_attention_heads"] * config["head_dim"]
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    save_file(
        {
            f"{prefix}.lora_A.weight": generator.normal(size=(4, width)).astype(np.float32),
            f"{prefix}.lora_B.weight": generator.normal(size=(rows, 4)).astype(np.float32),
        },
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 64,
                "target_modules": ["q_proj"],
                "base_model_name_or_path": str(base),
            }
        )
    )
    return folder


def test_what_can_never_run_is_refused_before_anything_starts(
    station: Workstation, ggufs: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    first, second = ggufs
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ModelOpsError) as refused:
            station.serving.start(str(first), name="a", port=port, **SMALL)
    assert f"{port}" in reason_of(refused.value)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.start(str(first), name="a", memory="900 TiB")
    assert "does not fit: it needs 921600.0 GiB" in reason_of(refused.value)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.start(str(first), name="a", host="0.0.0.0", api_key=False)
    assert "no key is asked for" in reason_of(refused.value)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.start(str(first), name="a", tls_certificate="/nowhere.pem")
    assert "belong together" in reason_of(refused.value)

    # of the same shapes, and still another model: told apart by its embeddings
    tuned = adapter(tmp_path / "tuned", tiny_model)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.start(str(second), name="a", adapters={"tuned": str(tuned)}, **SMALL)
    assert "was trained on" in reason_of(refused.value)
    assert "their embeddings agree to" in reason_of(refused.value)
    with pytest.raises(ModelOpsError) as refused:
        station.serving.start(str(first), name="a", adapters={"whole": str(second)}, **SMALL)
    assert "a whole model, not an adapter" in reason_of(refused.value)
    assert not station.serving.list()
    assert not station.jobs.list().jobs


@pytest.mark.slow
def test_an_adapter_over_a_gguf_answers_otherwise_than_its_base(
    station: Workstation, ggufs: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    tuned = adapter(tmp_path / "tuned", tiny_model)
    station.serve(str(ggufs[0]), name="plain", **SMALL)
    station.serve(str(ggufs[0]), name="tuned", adapters={"style": str(tuned)}, **SMALL)
    greedy = {"prompt": "the license", "max_tokens": 12, "temperature": 0.0}
    assert text_of(post(station, "plain", greedy)) != text_of(post(station, "tuned", greedy))
    # the adapter as the model itself: over its own base, and the same answer
    station.serving.stop("plain", wait_s=60)
    station.serve(str(tuned), name="itself", **SMALL)
    assert text_of(post(station, "itself", greedy)) == text_of(post(station, "tuned", greedy))
    with pytest.raises(Conflict, match="at its start only"):
        station.serving.load_adapter("tuned", "more", str(tuned))
    # shapes that don't fit are told with their numbers, and nothing is left behind
    wide = adapter(tmp_path / "wide", tiny_model, width=128)
    with pytest.raises(Conflict) as refused:
        station.serve(str(ggufs[0]), name="wide", adapters={"style": str(wide)}, **SMALL)
    assert "x 128 in the adapter" in reason_of(refused.value)
    assert len(servers(station.paths.root)) == 2


@pytest.mark.slow
def test_embeddings_tls_and_sleep(station: Workstation, gguf: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    view = station.serve(
        str(gguf), name="vectors", task="embed", tls_certificate=str(certificate),
        tls_key=str(key), **SMALL,
    )  # fmt: skip
    assert view.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=certificate)

    def embed(text: str) -> list[float]:
        status, value = post(
            station, "vectors", {"input": text}, path="/v1/embeddings", tls=trusting
        )
        assert status == 200, value
        vector: list[float] = value["data"][0]["embedding"]
        return vector

    first = embed("hello")
    assert first == embed("hello") != embed("the license of the program")
    assert [type(value) for value in first] == [float] * 256
    # what serves vectors does not chat, and plain HTTP gets nothing
    chat = post(station, "vectors", QUESTION, tls=trusting)
    assert chat[0] == 404
    with pytest.raises(OSError, match=r".*"):
        post(station, "vectors", {"input": "hello"}, path="/v1/embeddings")
    with pytest.raises(ssl.SSLError):
        post(station, "vectors", QUESTION, tls=ssl.create_default_context())
    station.serving.stop("vectors", wait_s=60)

    station.serve(str(gguf), name="lazy", idle_minutes=0.02, **SMALL)
    deadline = time.monotonic() + 120
    while station.serving.get("lazy").state is not DeploymentState.ASLEEP:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not servers(station.paths.root)
    asleep = station.serving.get("lazy")
    assert asleep.share_bytes == 400 << 20  # kept: waking never fails for want of memory
    assert text_of(post(station, "lazy", QUESTION))
    assert len(servers(station.paths.root)) == 1


@pytest.mark.slow
def test_shares_are_held_and_a_job_that_does_not_fit_waits_for_them(
    station: Workstation,
    gguf: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two models on one (told) card of 8 GiB by declared share; training waits until one leaves."""
    cards = tmp_path / "gpus.json"
    card = {"uuid": "GPU-1", "name": "T", "total": 8 << 30, "free": 8 << 30}
    cards.write_text(json.dumps([card]))
    monkeypatch.setenv("MODELOPS_FAKE_GPUS", str(cards))
    shape: dict[str, Any] = {"threads": 1, "context": 256, "memory": "3 GiB"}
    station.serve(str(gguf), name="one", **shape)
    station.serve(str(gguf), name="two", **shape)
    assert text_of(post(station, "one", QUESTION)) == text_of(post(station, "two", QUESTION))
    third = station.serving.start(str(gguf), name="three", **shape)
    deadline = time.monotonic() + 60
    while "waiting for memory" not in third.reason:
        assert time.monotonic() < deadline, third
        time.sleep(0.1)
        third = station.serving.get("three")
    assert third.state is DeploymentState.WAITING
    assert "needs 3.0 GiB" in third.reason
    assert "(serve): 3.0 GiB" in third.reason
    station.serving.stop("three", wait_s=60)

    # training on the same card: its turn is free, the memory is not
    recipe = f"""
        kind = "finetune"
        base = "{tiny_model}"
        [data]
        train = "house/train"
        [resources]
        memory = "4 GiB"
    """
    training = station.jobs.submit(prepare(recipe, paths=station.paths)).id
    while "waiting for memory" not in (reason := station.jobs.get(training).reason):
        assert time.monotonic() < deadline, reason
        time.sleep(0.1)
    assert "needs 4.0 GiB" in reason
    assert "(serve): 3.0 GiB" in reason
    station.jobs.cancel(training)
    done = subprocess.run(
        [sys.executable, "-m", "modelops_tui", "serve", "list"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "a deployment holds its share until it is stopped or paused" in done.stderr
    # what stops gives its share to the next
    third = station.serving.start(str(gguf), name="three", **shape)
    station.serving.stop("one", wait_s=60)
    assert station.serving.wait_ready("three").state is DeploymentState.READY
