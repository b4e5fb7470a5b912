"""``serve`` from start to remove, as real commands against a real engine and llama.cpp server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelops_tui import Workstation
from recipes.gguf.convert import convert
from tests.modelops_tui.front_door import FrontDoor
from tests.recipes.serve.asking import servers

ROOT = Path(__file__).resolve().parents[2]
LIVE = {"requests", "queued", "requests_per_s", "tokens_per_s", "first_byte_ms", "latency_ms"}


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("serve") / "tiny.gguf"
    convert(tiny_model, made)
    return str(made)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[FrontDoor]:
    made = FrontDoor(tmp_path)
    yield made
    for row in json.loads(made("serve", "list", "--json").stdout or "[]"):
        made("serve", "stop", row["name"], timeout=120)
    made("engine", "stop")


def record(door: FrontDoor, *args: str) -> dict[str, Any]:
    done = door("serve", *args, "--json", timeout=180)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def ask(view: dict[str, Any], key: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{view['url']}/chat/completions",
        json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        value: dict[str, Any] = json.load(answer)
    return value


def blocks(language: str) -> list[str]:
    """The examples of a language in docs/serve.md, about the deployment ``tiny``."""
    text = (ROOT / "docs" / "serve.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block.replace("support-bot", "tiny") for block in found]


@pytest.mark.slow
def test_the_examples_of_the_docs_run(door: FrontDoor, gguf: str) -> None:
    record(door, "start", gguf, "--threads", "1", "--context", "256", "--memory", "400 MiB")
    command = door.folder / "bin" / "modelops-tui"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m modelops_tui "$@"\n')
    command.chmod(0o700)
    env = {**door.env, "PATH": f"{command.parent}:{door.env['PATH']}"}
    examples = [["bash", "-ec", block] for block in blocks("bash")]
    examples += [[sys.executable, "-c", block] for block in blocks("python")]
    assert len(examples) == 2
    said = []
    for argv in examples:
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=door.folder, env=env, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert json.loads(said[0])["choices"][0]["message"]["role"] == "assistant"
    assert said[1].strip()


@pytest.mark.slow
def test_a_deployment_from_start_to_remove(door: FrontDoor, gguf: str) -> None:
    started = record(
        door, "start", gguf, "--threads", "1", "--context", "256", "--memory", "400 MiB"
    )
    assert (started["name"], started["state"]) == ("tiny", "ready")
    key = door("serve", "key", "tiny").stdout.strip()
    assert ask(started, key)["choices"][0]["message"]["role"] == "assistant"
    # a deployment is a model name for `chat`
    said = door("chat", "tiny", "hello", "--max-tokens", "4", "--json", timeout=120)
    assert json.loads(said.stdout)["model"] == "tiny"

    (row,) = json.loads(door("serve", "list", "--json").stdout)
    assert set(row) >= LIVE
    assert row["share_bytes"] == 400 << 20
    table = door("serve", "list")
    assert "p95 ms" in table.stdout
    assert "a deployment holds its share until it is stopped or paused" in table.stderr
    assert "held by 1 deployment;" in table.stderr
    again = door("serve", "start", gguf)
    assert again.returncode != 0
    assert "exists and runs" in again.stderr
    refused = door("serve", "load", "tiny", f"more={gguf}")
    assert refused.returncode != 0
    assert "a whole model, not an adapter" in refused.stderr
    assert "write --adapter NAME=REF" in door("serve", "load", "tiny", "more").stderr
    assert "no adapter 'more'" in door("serve", "unload", "tiny", "more").stderr
    assert "one version only" in door("serve", "rollback", "tiny").stderr

    assert record(door, "pin", "tiny")["pinned"] is True
    assert record(door, "sleep", "tiny")["state"] == "asleep"
    assert record(door, "wake", "tiny")["state"] == "ready"
    assert "runs" in door("serve", "remove", "tiny").stderr
    assert record(door, "stop", "tiny")["state"] == "stopped"
    assert not servers(door.folder / "state")
    assert "does not run" in door("serve", "wake", "tiny").stderr
    assert door("serve", "logs", "tiny").stdout
    back = record(door, "restart", "tiny")
    assert (back["state"], back["url"]) == ("ready", started["url"])
    assert door("serve", "key", "tiny").stdout.strip() == key
    record(door, "stop", "tiny")
    assert door("serve", "remove", "tiny").returncode == 0
    assert json.loads(door("serve", "list", "--json").stdout) == []


def test_what_never_began_has_an_address_a_key_and_an_empty_log(
    tmp_path: Path, gguf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    door = FrontDoor(tmp_path)
    with Workstation(tmp_path / "state") as station:
        # no engine: it stays queued
        station.serving.start(gguf, name="waiting", engine=False, memory="400 MiB", context=256)
        key = station.serving.key("waiting")
        logs = door("serve", "logs", "waiting")
        assert (logs.returncode, logs.stdout) == (0, "")
        assert "nothing was written yet" in logs.stderr
        assert json.loads(door("serve", "logs", "waiting", "--json").stdout)["lines"] == []
        station.serving.log_path("waiting").write_text("one\ntwo\0\nthree\n")
        assert door("serve", "logs", "waiting", "-n", "2").stdout == "two\nthree\n"
        told = json.loads(door("serve", "key", "waiting", "--json").stdout)
        assert told == {"name": "waiting", "key": key}
        url = json.loads(door("serve", "url", "waiting", "--json").stdout)["url"]
        assert url == station.serving.get("waiting").url
        station.serving.stop("waiting")
        # what has ended is told to its end and not waited for
        assert door("serve", "logs", "waiting", "--follow", "-n", "2").stdout == "two\nthree\n"
        assert "no end" in door("serve", "logs", "waiting", "--follow", "--json").stderr
    gone = json.loads(door("serve", "remove", "waiting", "--json").stdout)
    assert gone == {"name": "waiting", "removed": True}
    assert door("serve", "key", "waiting").returncode == 3
