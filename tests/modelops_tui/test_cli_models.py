"""The registry's commands, run as processes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = "correct horse battery"


class Shell:
    """Runs ``modelops-tui`` on one state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str | Path, status: int = 0, words: str = "") -> str:
        env = {**os.environ, "MODELOPS_HOME": str(self.state)}
        reader, writer = os.pipe()
        os.write(writer, words.encode())
        os.close(writer)
        command = [sys.executable, "-m", "modelops_tui", *map(str, arguments)]
        done = subprocess.run(
            [part.replace("FD", str(reader)) for part in command],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=(reader,),
        )
        os.close(reader)
        assert done.returncode == status, done.stdout + done.stderr
        self.stderr = done.stderr
        return done.stdout


def test_changes_are_told_as_json_and_slips_are_errors(shell: Shell, model: Path) -> None:
    shell("models", "add", model, "--name", "bot", "--type", "model")
    assert json.loads(shell("models", "tag", "bot", "golden", "--json"))["tags"] == ["golden"]
    assert json.loads(shell("models", "yank", "bot", "--json"))["yanked"] is True
    shell("models", "yank", "bot@1", "--undo")
    assert shell("audit", "stage", "bot", "prod") == ""
    assert "bot never held prod" in shell.stderr
    shell("audit", "stage", "bto", status=3)
    gone = json.loads(shell("models", "rm", "bot", "--json"))
    assert (gone["name"], gone["version"], gone["deleted"]) == ("bot", "1", True)
    shell("market", "browse", "/no/such/folder", status=3)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "state")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("hello " * 1000)
    return folder


def test_models(shell: Shell, model: Path, tmp_path: Path) -> None:
    assert shell("models", "list") == ""
    assert "no artifact here yet" in shell.stderr
    assert not (tmp_path / "state").exists()
    added = json.loads(shell("models", "add", model, "--name", "bot", "--license", "mit", "--json"))
    assert added["version"] == "1"
    assert shell("models", "promote", "bot", "dev").strip() == "bot@1 is dev"
    lines = [line.split(None, 1) for line in shell("models", "show", "bot").splitlines()]
    kept = {line[0]: line[1] for line in lines if len(line) == 2}
    bill = json.loads(Path(kept["sbom"].strip()).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert Path(kept["model.sig"].strip()).exists()
    (listed,) = json.loads(shell("models", "list", "--json"))
    assert (listed["name"], listed["stages"], listed["license"]) == ("bot", "dev", "MIT")
    (row,) = csv.DictReader(io.StringIO(shell("models", "list", "--csv")))
    assert row["name"] == "bot"
    shown = shell("models", "show", "bot@dev")
    for text in ("bot@1", "notes.txt", "valid", "published bot@1"):
        assert text in shown
    assert "every byte read" in shell("models", "verify", "bot", "--deep")
    folder = Path(shell("models", "path", "bot@dev").strip())
    assert (folder / "config.json").read_text() == "{}"
    shell("models", "show", "nothing", status=3)
    assert "there is no artifact" in shell.stderr
    shell("models", "promote", "bot", "prod", status=5)
    assert "0 of 1 release" in shell.stderr
    blob = max((tmp_path / "state/registry/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    shell("models", "verify", "bot", status=6)
    assert "not the ones that were signed" in shell.stderr
    shell("models", "path", "bot", status=6)
    report = json.loads(shell("models", "fsck", "--deep", "--json", status=6))
    assert [fault["kind"] for fault in report["faults"]] == ["blob"]


def test_two_artifacts_side_by_side(shell: Shell, model: Path, tmp_path: Path) -> None:
    shell("models", "add", model, "--name", "bot", "--type", "model", "--license", "mit")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "notes.md").write_text("more")
    shell("models", "add", other, "--name", "bat", "--type", "model")
    shown = shell("models", "compare", "bot", "bat")
    assert "bot@1" in shown
    assert "bat@1" in shown
    (line,) = [x for x in shown.splitlines() if x.startswith("licence")]
    assert line.split() == ["licence", "MIT", "-"]
    (line,) = [x for x in shown.splitlines() if x.startswith("notes.md")]
    assert line.split() == ["notes.md", "-", "4", "no"]
    # what is alike is left out, unless it is asked for
    same = sorted(file.name for file in model.iterdir() if file.is_file())[0]
    assert same not in shown
    assert same in shell("models", "compare", "bot", "bat", "--all")
    told = json.loads(shell("models", "compare", "bot", "bat", "--json"))
    assert told["left"]["name"] == "bot"
    assert ["notes.md", None, 4, False] in told["files"]
    shell("models", "compare", "bot", "bot")
    assert "nothing differs" in shell.stderr
    shell("models", "compare", "bot", "nobody", status=3)


def test_keys_and_audit(shell: Shell, model: Path) -> None:
    shell("models", "add", model, "--name", "bot")
    shell("keys", "create-release", "--name", "anna", "--new-passphrase-fd", "FD", words=WORDS)
    shell("models", "promote", "bot", "prod", "--passphrase-fd", "FD", words="wrong", status=5)
    assert "stays locked" in shell.stderr
    shell("models", "promote", "bot", "prod", "--passphrase-fd", "FD", "--note", "go", words=WORDS)
    (change,) = json.loads(shell("audit", "stage", "bot", "prod", "--json"))
    assert (change["version"], change["note"], change["until"]) == ("1", "go", None)
    types = [event["type"] for event in json.loads(shell("audit", "log", "--json"))]
    assert types == ["promote", "keys", "publish"]
    shell("audit", "verify")
    assert "signatures, chains and state are right" in shell.stderr
    keys = json.loads(shell("keys", "list", "--json"))
    assert sorted(key["roles"] for key in keys) == ["attest", "device", "release,root"]
    assert json.loads(shell("keys", "show", "--json"))["public"]
    shell("keys", "rotate", "--passphrase-fd", "FD", words=WORDS)
    shell("models", "add", model, "--name", "bot")
    assert "BEGIN PUBLIC KEY" in shell("keys", "export-public")


def test_remote(shell: Shell, model: Path, tmp_path: Path) -> None:
    shell("models", "add", model, "--name", "bot")
    assert "several machines" in shell("remote", "add", "origin", tmp_path / "remote")
    assert "would be pushed: 1 events" in shell("remote", "push", "--dry-run")
    assert "pushed: 1 events, 1 manifests, 2 blobs" in shell("remote", "push")
    root = json.loads(shell("keys", "show", "--json"))["root"]
    other = Shell(tmp_path / "other")
    other("remote", "clone", tmp_path / "remote", "--fingerprint", "0" * 64, status=5)
    other("remote", "clone", tmp_path / "remote", "--fingerprint", root)
    other("models", "verify", "bot", "--deep")
    assert "in sync" in other("remote", "status")
    other("remote", "push", "nowhere", status=3)
    assert "there is no remote" in other.stderr
    (listed,) = json.loads(other("remote", "list", "--json"))
    assert listed["shared"] is True


def test_market(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "adapter_model.safetensors").write_bytes(data)
    shell("models", "add", folder, "--name", "pirate", "--type", "adapter", "--license", "mit")
    catalogue = tmp_path / "catalogue"
    shell("market", "publish", catalogue, "pirate", "--summary", "Talks like a pirate")
    assert "pirate" in shell("market", "search", catalogue, "talks")
    assert "is what its publisher signed" in shell("market", "verify", catalogue, "pirate")
    assert json.loads(shell("market", "verify", catalogue, "pirate", "--json"))["ok"] is True
    assert json.loads(shell("market", "show", catalogue, "pirate", "--json"))["name"] == "pirate"
    other = Shell(tmp_path / "other")
    other("market", "install", catalogue, "pirate", status=5)
    assert "is not pinned" in other.stderr


def test_hostile_text_is_made_visible(shell: Shell, model: Path) -> None:
    """Cards may hold anything; nothing of it reaches the terminal as an escape or a bidi mark."""
    card = model.parent / "card.md"
    card.write_text("# \x1b[2J\u202eevil <script>alert(1)</script> [red]x[/red]\n")
    shell("models", "add", model, "--name", "bot", "--card", card)
    shown = shell("models", "show", "bot")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b[2J\\u202eevil" in shown
    # neither HTML nor Rich markup means anything here: both stand there as they were written
    assert "<script>alert(1)</script> [red]x[/red]" in shown
    assert "<script>" in json.loads(shell("models", "show", "bot", "--json"))["card"]


def test_markup_in_names_of_files_is_only_text(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "[red]a[link=file:.]b.txt").write_text("x")
    (folder / "<img src=x onerror=alert(1)>.txt").write_text("y")
    shell("models", "add", folder, "--name", "odd", "--type", "report")
    shown = "".join(shell("models", "show", "odd").split())
    assert "[red]a[link=file:.]b.txt" in shown
    assert "<imgsrc=xonerror=alert(1)>.txt" in shown


def test_keys_and_pins_as_json_and_slips_with_a_next_step(shell: Shell, tmp_path: Path) -> None:
    assert shell("keys", "list") == ""
    assert "makes this machine's" in shell.stderr
    assert not shell.state.exists(), "looking makes nothing"
    device = json.loads(shell("keys", "show", "--json"))
    assert json.loads(shell("keys", "stage", "canary", "--before", "prod", "--json")) == {
        "name": "canary",
        "role": "device",
        "threshold": 1,
    }
    other = Shell(tmp_path / "other")
    public = json.loads(other("keys", "show", "--json"))["public"]
    added = json.loads(shell("keys", "add", public, "--owner", "bob", "--json"))
    assert (added["owner"], added["role"]) == ("bob", "device")
    bob = added["fingerprint"].replace(" ", "")
    for wrong in ("writer", "writer=", "=3", "writer=x"):
        shell("keys", "revoke", bob, "--reason", "x", "--last-good", wrong, status=2)
        assert "WRITER=SEQ" in shell.stderr
    revoked = json.loads(shell("keys", "revoke", bob, "--reason", "lost", "--json"))
    assert revoked == {"key": bob, "believed": {}}
    turned = json.loads(shell("keys", "rotate", "--json"))
    assert turned["fingerprint"] != device["fingerprint"]
    shell("keys", "add", "zzz", "--owner", "bob", status=2)
    assert "keys show" in shell.stderr
    shell("keys", "add", public, "--owner", "bob", "--role", "king", status=2)
    assert "--role release" in shell.stderr
