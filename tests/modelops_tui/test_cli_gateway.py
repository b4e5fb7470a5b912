"""``modelops-tui gateway`` and its tokens as processes; what is refused before it listens."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.paths import StatePaths
from modelops_tui.cli.gateway import _check_tls
from modelops_tui.gateway.tokens import Tokens
from tests.faults.harness import PATIENCE
from tests.modelops_tui.front_door import FrontDoor


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("pem")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_it_listens_with_tls_on_a_free_port_and_ends_at_ctrl_c(
    tmp_path: Path, pem: tuple[str, str]
) -> None:
    door = FrontDoor(tmp_path)
    gateway = door.begin("gateway", "--port", "0", "--tls-certificate", pem[0], "--tls-key", pem[1])
    try:
        assert gateway.stderr is not None
        said = ""
        while not (found := re.search(r"https://127\.0\.0\.1:[1-9]\d+", said)):
            line = gateway.stderr.readline()
            assert line, said  # it ended
            said += line
        assert "gateway token add" in said
        trusting = ssl.create_default_context(cafile=pem[0])
        # the socket listens before the words are written: the connection waits, it isn't refused
        with urllib.request.urlopen(
            f"{found[0]}/health", context=trusting, timeout=PATIENCE
        ) as answer:
            assert json.load(answer)["status"] == "ok"
        gateway.send_signal(signal.SIGINT)
        gateway.wait(PATIENCE)
    finally:
        gateway.kill()
        gateway.communicate()


def test_tokens_from_the_command_line(tmp_path: Path) -> None:
    door = FrontDoor(tmp_path)
    assert "gateway token add" in door("gateway", "token", "list").stderr
    made = json.loads(
        door("gateway", "token", "add", "ci", "--scope", "run", "--days", "1", "--json").stdout
    )
    assert made["secret"].startswith("mo_")
    tokens = Tokens(StatePaths(tmp_path / "state"))
    found = tokens.find(made["secret"])
    assert found is not None
    assert found.id == made["token"]["id"]
    told = door("gateway", "token", "revoke", found.id, "--json")
    assert json.loads(told.stdout)["revoked"] is True
    assert tokens.find(made["secret"]) is None
    unknown = door("gateway", "token", "revoke", "0badc0de")
    assert (unknown.returncode, "gateway token list" in unknown.stderr) == (3, True)
    never = door("gateway", "token", "add", "ci", "--days", "0")
    assert (never.returncode, "at most 36500" in never.stderr) == (2, True)


@pytest.mark.parametrize("days", [0, -1, 36_501, float("nan"), float("inf")])
def test_a_token_that_could_not_expire_is_not_made(tmp_path: Path, days: float) -> None:
    tokens = Tokens(StatePaths(tmp_path / "state"))
    with pytest.raises(BadInput, match="can't be valid"):
        tokens.add("ci", ["read"], days)
    assert tokens.list() == ()


def test_what_no_tls_server_begins_with_is_refused(tmp_path: Path, pem: tuple[str, str]) -> None:
    certificate, key = pem
    other, junk, locked = tmp_path / "other.pem", tmp_path / "junk.pem", tmp_path / "locked.pem"
    subprocess.run(["openssl", "genrsa", "-out", other, "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    junk.write_text("no pem")
    _check_tls("", "")
    _check_tls(certificate, key)
    for first, second, words in (
        (certificate, "", "belong together"),
        ("", key, "belong together"),
        (str(tmp_path / "none"), key, "there is no file"),
        (str(junk), key, "can't begin"),
        (certificate, str(other), "can't begin"),
        (certificate, str(locked), "passphrase"),
    ):
        with pytest.raises(BadInput, match=words) as refused:
            _check_tls(first, second)
        assert refused.value.hint


def test_a_refused_start_is_words_and_no_traceback(tmp_path: Path) -> None:
    door = FrontDoor(tmp_path)
    done = door("gateway", "--port", "0", "--tls-certificate", "none.pem", "--tls-key", "none.pem")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    outside = door("gateway", "--host", "0.0.0.0", "--port", "0")
    assert (outside.returncode, "unencrypted" in outside.stderr) == (2, True)
