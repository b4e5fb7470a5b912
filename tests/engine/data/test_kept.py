"""Rows kept one by one: written down at once, added once, whoever dies in between."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from engine.api import Workbench
from engine.data import kept
from engine.data.versions import import_rows
from engine.errors import BadInput, ModelOpsError, NotFound
from engine.paths import StatePaths
from engine.types.chats import KeptRows, conversation_row, preference_row
from engine.types.serving import ChatMessage


def row(number: int) -> dict[str, object]:
    turns = [ChatMessage("user", f"{number}?"), ChatMessage("assistant", f"{number}.")]
    return conversation_row(turns)


def test_kept_rows_become_one_signed_version_and_wait_no_more(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    assert bench.kept.list() == ()
    assert not tmp_path.joinpath("kept").exists(), "looking makes nothing"
    assert [bench.kept.keep("chats", row(n)) for n in range(3)] == [1, 2, 3]
    assert bench.kept.list() == (KeptRows("chats", 3),)
    assert bench.kept.rows("chats") == tuple(row(n) for n in range(3))
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    first = bench.kept.add("chats")
    assert (first.rows, bool(first.manifest)) == (3, True)
    assert bench.kept.list() == ()
    with pytest.raises(NotFound, match="no rows wait"):
        bench.kept.add("chats")
    bench.kept.keep("chats", row(3))
    second = bench.kept.add("chats")
    assert (second.version, second.rows) == (first.version + 1, 4)
    assert [r["messages"][0]["content"] for r in bench.data.rows("chats").rows] == [
        "0?", "1?", "2?", "3?",
    ]  # fmt: skip


def test_killed_between_the_version_and_letting_go_they_are_added_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = StatePaths(tmp_path)
    kept.keep(paths, "chats", row(0))
    kept.add(paths, "chats")
    kept.keep(paths, "chats", row(1))

    def killed(*_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.ftruncate", killed)
        with pytest.raises(KeyboardInterrupt):
            kept.add(paths, "chats")
    assert kept.waiting(paths) == (KeptRows("chats", 1),)
    version = kept.add(paths, "chats")
    assert version.rows == 2
    assert kept.waiting(paths) == ()


def test_a_failed_import_leaves_them_waiting(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("messages\n1\n2\n")
    import_rows(numbers, "numbers", bench.paths)
    bench.kept.keep("numbers", row(0))
    with pytest.raises(ModelOpsError):
        bench.kept.add("numbers")
    assert bench.kept.list() == (KeptRows("numbers", 1),)
    assert bench.data.show("numbers").versions == 1
    assert bench.kept.discard("numbers") == 1
    assert bench.kept.list() == ()


@pytest.mark.parametrize("name", ["", "../x", "Chats", "a/b", ".hidden"])
def test_a_name_that_names_no_dataset_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="can't name a dataset"):
        kept.keep(StatePaths(tmp_path / "state"), name, row(0))
    assert not (tmp_path / "state").exists()


def test_a_full_disk_leaves_no_half_row(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    kept.keep(paths, "chats", row(0))
    before = (paths.kept / "chats.jsonl").read_bytes()
    (paths.kept / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        kept.keep(paths, "full", row(1))
    assert (paths.kept / "chats.jsonl").read_bytes() == before


def _keep_many(root: Path, begin: int) -> None:
    for number in range(begin, begin + 50):
        kept.keep(StatePaths(root), "chats", row(number))


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_keep_many, args=(tmp_path, 100 * n)) for n in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    asked = {r["messages"][0]["content"] for r in kept.rows(StatePaths(tmp_path), "chats")}
    assert asked == {f"{100 * n + i}?" for n in range(2) for i in range(50)}


def test_what_can_not_be_kept() -> None:
    user, yes, no = (
        ChatMessage("user", "?"),
        ChatMessage("assistant", "yes"),
        ChatMessage("assistant", "no"),
    )
    assert preference_row([user, yes], [user, no]) == {
        "prompt": [{"role": "user", "content": "?"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    with pytest.raises(BadInput, match="the same"):
        preference_row([user, yes], [user, yes])
    with pytest.raises(BadInput, match="two answers"):
        preference_row([user, yes], ())
    with pytest.raises(BadInput, match="no answer"):
        conversation_row([user])
