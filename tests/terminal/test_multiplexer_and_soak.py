"""Through tmux, through a real sshd, and ten thousand actions later."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.screens.seeded import Seed
from tests.terminal import soak
from tests.terminal.session import PATIENCE_S, Session


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_through_tmux(root: Path, tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "tmux.sock")]
    command = f"{sys.executable} -m modelops_tui; echo left with $?; sleep 60"
    env = {**os.environ, "MODELOPS_HOME": str(root)}
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "80", "-y", "24", command], check=True, env=env
    )

    def screen() -> str:
        done = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True)
        return done.stdout

    def wait(text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in screen():
            assert time.monotonic() < end, screen()
            time.sleep(0.1)

    try:
        wait("house-style")
        assert all(len(line) <= 80 for line in screen().splitlines())
        subprocess.run([*tmux, "resize-window", "-x", "120", "-y", "36"], check=True)
        wait("ctrl+q quit")
        subprocess.run([*tmux, "send-keys", "C-q"], check=True)
        wait("left with 0")
        wait("jobs go on")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.nightly
@pytest.mark.skipif(
    shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists(),
    reason="openssh-server is not installed",
)
def test_through_sshd_and_a_dropped_line(seed: Seed, tmp_path: Path) -> None:
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    port = _free_port()
    authorized = tmp_path / "authorized"
    shutil.copy(tmp_path / "user.pub", authorized)
    os.chmod(tmp_path, 0o700)
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nStrictModes no\n"
        f"AuthorizedKeysFile {authorized}\nPidFile {tmp_path}/pid\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(config)],
        stderr=open(tmp_path / "sshd.log", "wb"),  # noqa: SIM115
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        remote = (
            f"cd {Path(__file__).resolve().parents[2]} && MODELOPS_HOME={seed.paths.root}"
            f" {sys.executable} -m modelops_tui"
        )
        argv = ["ssh", "-tt", "-q", "-p", str(port), "-i", str(tmp_path / "user")]
        argv += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known"]
        with Session([*argv, "127.0.0.1", remote]) as session:
            session.wait_for("house-style")
            # no mouse over SSH: the terminal's own selection works
            assert b"\x1b[?1000h" not in session.output
            session.process.kill()
        end = time.monotonic() + PATIENCE_S
        while _workbenches(seed.paths.root):
            assert time.monotonic() < end, "the dropped line left the program behind"
            time.sleep(0.2)
        # and back: everything stands there again, also what happened meanwhile
        seed.job("sent-meanwhile")
        with Session([*argv, "127.0.0.1", remote]) as session:
            session.wait_for("house-style")
            session.wait_for("sent-meanwhile")
            session.press("\x11")
            assert session.end() == 0
    finally:
        server.terminate()
        server.wait()


def _workbenches(root: Path) -> list[str]:
    """Processes of the workbench over this state directory."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"modelops_tui" in words and str(root).encode() in environment:
            found.append(folder.name)
    return found


@pytest.mark.nightly
def test_ten_thousand_actions_leave_everything_flat(seed: Seed, tmp_path: Path) -> None:
    held = soak.run(seed.paths.root, tmp_path / "counts", 10_000, "house-style")
    first, quarter, last = held[0], held[1], held[-1]
    assert last.actions > 10_000
    assert last.widgets <= first.widgets + soak.TOLERANCE, held
    assert last.tasks <= first.tasks + 2 * soak.TOLERANCE, held
    assert last.threads <= quarter.threads + 4, held
    assert last.descriptors <= quarter.descriptors + 4, held
    assert last.memory_mb <= 80, held
    # the caches of Textual are full after 2,500 actions
    assert last.memory_mb <= quarter.memory_mb + 8, held
