"""Stages with their gates and keys through the screen; a filter over more than one page."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from engine.registry import Registry
from screens.dialogs import ChoiceDialog, ConfirmDialog, LineDialog
from screens.registry.screen import PAGE
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, reads, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import ask, listen, on_registry, published

WORDS = "correct horse battery"


async def to_stage(pilot: Any, stage: str) -> None:
    await pilot.press("p")
    await until(pilot, lambda: isinstance(pilot.app.screen, ChoiceDialog), "the stages")
    await pilot.press(*stage, "enter")


async def test_a_gate_that_is_not_met_refuses_and_says_which(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    seed.paths.config.write_text('[registry.gates.staging]\nmetrics = {perplexity = "<= 12"}\n')
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        await on_registry(pilot, 1)
        await to_stage(pilot, "staging")
        await until(pilot, lambda: reads(app), "refused")
        told = app.screen.query_one(TextPane)
        await until(pilot, lambda: "perplexity <= 12" in told.text, "the gate, in words")
        assert "✗ perplexity <= 12: no signed evaluation has it" in told.text
        assert "✓" in told.text, "what is met is shown beside it"
        await pilot.press("y")
        await pilot.press("escape")
    assert not seed.workbench.artifacts.list(stage="staging")
    seed.close()


async def test_a_release_key_signs_with_its_passphrase_only(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    artifacts = seed.workbench.artifacts
    artifacts.create_release_key("anna", WORDS)
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 36)) as pilot:

        async def asked() -> None:
            await to_stage(pilot, "prod")
            await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks")
            assert "to prod?" in cast(ConfirmDialog, app.screen).question
            await pilot.press("y")
            await until(pilot, lambda: isinstance(app.screen, LineDialog), "the passphrase")

        await on_registry(pilot, 1)
        screen: Any = app.screen
        await asked()
        await pilot.press("escape")
        await until(pilot, lambda: any("stays where it is" in t for t in heard), "nothing done")
        await asked()
        await ask(pilot, "wrong words here")
        await until(pilot, lambda: any("passphrase is wrong" in t for t in heard), "refused")
        assert not artifacts.list(stage="prod")
        await asked()
        await ask(pilot, WORDS)
        await until(pilot, lambda: bool(artifacts.list(stage="prod")), "promoted")
        await until(pilot, lambda: "prod" in screen.rows[0].cells[3][0], "and shown")
    assert not any(WORDS in told for told in heard)
    seed.close()


async def test_without_a_release_key_no_passphrase_is_asked_for(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        await on_registry(pilot, 1)
        await to_stage(pilot, "prod")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks")
        await pilot.press("y")
        await until(pilot, lambda: reads(app), "refused")
        told = app.screen.query_one(TextPane)
        await until(pilot, lambda: "keys create-release" in told.text, "what to do")
    assert not seed.workbench.artifacts.list(stage="prod")
    seed.close()


async def test_the_verify_pane_shows_what_v_found(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await on_registry(pilot, 1)
        screen: Any = app.screen
        screen.deck.show("verify")
        await until(pilot, lambda: bool(screen.query("#verify")), "the pane is made")
        pane = screen.query_one("#verify", TextPane)
        screen.load_pane()
        await until(pilot, lambda: "no: v reads every byte" in pane.text, "not every byte yet")
        await pilot.press("v")
        await until(
            pilot,
            lambda: "✓ verified" in pane.text and "no: v reads" not in pane.text,
            "every byte was read",
        )
        screen.deck.show("events")
        screen.show_crumbs()
        assert "History" in str(screen.top_bar.render()), "a pane has one name"
        screen.deck.show("verify")
        assert "✓ verified" in pane.text
        (row,) = screen.rows
        path = next(Path(seed.workbench.artifacts.path(row.item.manifest)).iterdir()).resolve()
        path.chmod(0o600)
        path.write_bytes(path.read_bytes() + b"x")
        screen.load_pane()
        await until(pilot, lambda: "not what was signed" in pane.text, "a later change is seen")
    seed.close()


async def test_of_several_release_keys_one_is_chosen_and_each_counts(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    artifacts = seed.workbench.artifacts
    artifacts.create_release_key("anna", WORDS)
    artifacts.create_release_key("ben", WORDS + "s", passphrase=WORDS)
    artifacts.set_stage("prod", "release", 2, passphrase=WORDS, key="anna")
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(80, 24)) as pilot:

        async def signed(verb: str, name: str, words: str) -> None:
            await to_stage(pilot, "prod")
            await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks")
            assert cast(ConfirmDialog, app.screen).question.startswith(verb)
            await pilot.press("y")
            await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the keys")
            await pilot.press(*name, "enter")
            await until(pilot, lambda: isinstance(app.screen, LineDialog), "the passphrase")
            await ask(pilot, words)

        await on_registry(pilot, 1)
        await signed("Approve", "anna", WORDS)
        await until(pilot, lambda: any("1 key(s) agree on prod" in t for t in heard), "one agrees")
        assert not artifacts.list(stage="prod")
        await signed("Promote", "ben", WORDS + "s")
        await until(pilot, lambda: bool(artifacts.list(stage="prod")), "the second one promotes")
    seed.close()


async def test_the_filter_asks_the_index_beyond_the_first_page(tmp_path: Path) -> None:
    seed = Seed(tmp_path / "state")
    registry = Registry.open(seed.paths)
    registry.db()
    importlib.import_module("benchmarks.registry").synthetic(registry, PAGE + 100)
    registry.close()
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await on_registry(pilot, PAGE)
        screen: Any = app.screen
        assert screen.counted == f"{PAGE}+"
        oldest = "qwen-1"
        assert all(row.item.name != oldest for row in screen.rows), "it is on the second page"
        await pilot.press("slash", *oldest, "enter")
        await until(
            pilot,
            lambda: any(row.item.name == oldest for row in screen.table.rows),
            "found by the index",
        )
        assert len(screen.rows) < PAGE
        await pilot.press("escape")
        await until(pilot, lambda: screen.counted == f"{PAGE}+", "all of them again")
        await pilot.press("G")
        await until(pilot, lambda: len(screen.rows) == PAGE + 100, "the second page")
    seed.close()
