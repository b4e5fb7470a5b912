"""Clocks that are wrong: a server says so and so do we; the order of events does not need them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import IntegrityError, Refused
from engine.registry import log
from engine.registry.sync import remote, s3
from tests.engine.registry.conftest import make_folder

Machine = Callable[[str], Artifacts]


def at(moment: datetime) -> Callable[[], str]:
    return lambda: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("hours", [-100_000, -1, 1, 100_000])
def test_events_follow_their_order_not_their_clocks(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A machine whose clock is off (by 11 years, too) publishes, promotes and shares all right."""
    alice, bob = machine("alice"), machine("bob")
    alice.add(make_folder(tmp_path / "one"), name="bot", artifact_type="model")
    alice.promote("bot", "dev")
    alice.remote_add("origin", str(tmp_path / "remote"))
    alice.push()
    bob.clone(str(tmp_path / "remote"))
    alice.add_key(bob.device()["public"], "device", "bob")
    alice.push()
    bob.pull()
    wrong = at(datetime.now(UTC) + timedelta(hours=hours))
    with monkeypatch.context() as patch:
        patch.setattr(log, "now", wrong)
        patch.setattr(sys.modules["engine.registry.publish"], "now", wrong)
        bob.add(make_folder(tmp_path / "two", "2"), name="bot", artifact_type="model")
        bob.promote("bot@2", "dev")
    bob.push()
    alice.pull()
    alice.promote("bot@1", "dev")
    alice.push()
    bob.pull()
    for machine_ in (alice, bob):
        assert [view.version for view in machine_.list()] == ["2", "1"]
        assert machine_.resolve("bot@dev").version == "1"
        assert [c.version for c in machine_.stage_history("bot", "dev")] == ["1", "2", "1"]
        assert machine_.fsck(deep=True).ok


@pytest.mark.parametrize(
    ("hours", "refused"), [(25, "pull"), (23, None), (-23, None), (-25, "push")]
)
def test_a_checkpoint_of_a_wrong_clock(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    refused: str | None,
) -> None:
    """A day off is believed; more is named as what it is, by whoever meets it."""
    alice, bob = machine("alice"), machine("bob")
    alice.add(make_folder(tmp_path / "one"), name="bot", artifact_type="model")
    alice.remote_add("origin", str(tmp_path / "remote"))
    alice.push()
    bob.clone(str(tmp_path / "remote"))
    alice.add(make_folder(tmp_path / "two", "2"), name="bot", artifact_type="model")

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(hours=hours)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "now", at(datetime.now(UTC) + timedelta(hours=hours)))
        patch.setattr(remote, "datetime", Wrong)
        if refused == "push":
            with pytest.raises(IntegrityError, match="in the future") as caught:
                alice.push()
            assert "clock" in str(caught.value.hint)
            return
        alice.push()
    if refused is None:
        bob.pull()
        assert bob.resolve("bot").version == "2"
        return
    with pytest.raises(IntegrityError, match="in the future") as caught:
        bob.pull()
    assert "clock" in str(caught.value.hint)
    assert bob.resolve("bot").version == "1"
    assert bob.fsck(deep=True).ok


SKEWED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code><Message>'
    b"The difference between the request time and the current time is too large.</Message></Error>"
)


@pytest.fixture
def skewed() -> Iterator[str]:
    """A server that answers as S3 does to a clock that is 15 minutes off."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            self.send_response(403)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(SKEWED)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(SKEWED)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_that_refuses_our_clock(
    machine: Machine, skewed: str, credentials: None, tmp_path: Path
) -> None:
    pytest.importorskip("obstore")
    url = f"s3://models/x?endpoint={skewed}"
    with pytest.raises(Refused) as caught:
        machine("alice").remote_add("origin", url)
    assert "clock is wrong" in str(caught.value.why)
    transport = s3.S3(url)
    large = tmp_path / "large"
    large.write_bytes(bytes(s3.MULTIPART_ABOVE + 1))
    with pytest.raises(Refused) as caught:
        transport.upload("blobs/sha256/x", large, lambda count: None)
    assert "clock is wrong" in str(caught.value.why)


def test_a_real_server_refuses_a_wrong_clock(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SeaweedFS judges the signature's time itself; our message names the clock as a cause."""
    import botocore.auth

    later = datetime.now(UTC) + timedelta(hours=3)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: later)
    large = tmp_path / "large"
    large.write_bytes(bytes(s3.MULTIPART_ABOVE + 1))
    with pytest.raises(Refused) as caught:
        s3.S3(bucket).upload("blobs/sha256/x", large, lambda count: None)
    assert "clock" in f"{caught.value.why} {caught.value.hint}"
