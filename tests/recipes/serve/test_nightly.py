"""The long ones: switches and kills under load, and the 135M model with an adapter tuned here."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import chaos, switches, workstation
from engine.types.serving import ChatMessage, Sampling
from modelops_tui import Workstation
from tests.recipes.serve.asking import post, servers, text_of
from tests.support.step import run_step

pytestmark = pytest.mark.nightly


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``workstation`` sets these for good: here they end with the test."""
    for name in ("MODELOPS_HOME", "MODELOPS_SPACE_FLOOR_MIB", "OMP_NUM_THREADS"):
        before = os.environ.get(name)
        monkeypatch.setenv(name, before or "")
        if before is None:
            monkeypatch.delenv(name)


def test_fifty_switches_under_load_fail_no_request(
    tmp_path: Path, ggufs: tuple[Path, Path]
) -> None:
    with workstation(tmp_path / "s") as station:
        found = switches(station, ggufs, 50)
    assert found["failed"] == 0, found
    # every answer was wholly one model's or wholly the other's
    assert found["texts"] == 2, found


def test_kills_at_random_are_survived_and_leave_nothing(tmp_path: Path, gguf: Path) -> None:
    seed = int(os.environ.get("MODELOPS_SEED") or random.SystemRandom().randrange(2**31))
    with workstation(tmp_path / "s") as station:
        found = chaos(station, gguf, 15, seed)
    assert not found["unclean"], (seed, found)
    assert not found["left"], (seed, found)
    assert found["texts"] == 1, (seed, found)


def test_an_adapter_tuned_here_over_the_packaged_gguf(station: Workstation, tmp_path: Path) -> None:
    """The 135M model as it is packaged (Q4_1), and a LoRA trained on its dequantized weights."""
    station.paths.ensure()
    result = run_step(
        station.paths.root,
        "finetune",
        {
            "base": "smollm2",
            "data": {"train": "house/train", "max_length": 128},
            "train": {"max_steps": 6, "lr": 2e-3, "rank": 8, "batch": 2},
        },
    )
    adapter = str(result.outputs["model"])
    small: dict[str, Any] = {"threads": 2, "context": 512}
    station.serving.start("smollm2", name="plain", **small)
    station.serving.start(adapter, name="tuned", **small)
    for name in ("plain", "tuned"):
        station.serving.wait_ready(name, 600)
    assert len(servers(station.paths.root)) == 2
    greedy = {"prompt": "How do I reset my password?", "max_tokens": 24, "temperature": 0.0}
    assert text_of(post(station, "plain", greedy)) != text_of(post(station, "tuned", greedy))
    turns = [ChatMessage("user", "What is the capital of France? One word.")]
    said = [p for p in station.stream("plain", turns, Sampling(0.0, max_tokens=24))][-1].text
    assert "Paris" in said
