"""Plugins in real jobs: an engine runs `evaluate`, `export` and `rag` with what a plugin brings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.kinds import load_kinds
from engine.plugins import extensions
from engine.types.jobs import JobState
from modelops_tui import Workstation
from modelops_tui.cli.plugin_template import write_template
from tests.modelops_tui.plugins.test_plugins import install
from tests.support.tiny_model import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
_GROUPS = (
    "[modelops_tui.metrics]\nwords-exact = words.metric:exact\n"
    "[modelops_tui.exporters]\nwords-form = words.exporter:export\n"
    "[modelops_tui.readers]\nwords-reader = words.reader:read\n"
)


def _forget() -> None:
    load_kinds.cache_clear()
    extensions.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workstation]:
    made = write_template("words", tmp_path / "words", ("metric", "exporter", "reader"))
    install(made, "words", _GROUPS)
    monkeypatch.setenv("PYTHONPATH", str(made))
    monkeypatch.syspath_prepend(str(made))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    _forget()
    with Workstation(tmp_path / "state") as station:
        yield station
        station.system.stop_engine()
    for name in [n for n in sys.modules if n.partition(".")[0] == "words"]:
        del sys.modules[name]
    monkeypatch.undo()
    _forget()


def test_evaluate_export_and_rag_use_them(station: Workstation, tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", 0)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    job = station.run(
        f'kind = "evaluate"\nmodel = "{model}"\ndata = "{rows}"\nmetrics = ["words-exact"]\n'
        'metric_rows = 2\nmax_new_tokens = 4\nsamples = 0\n[resources]\nmemory = "600 MiB"\n'
    )
    assert job.state is JobState.SUCCEEDED
    tables = [table for step in station.jobs.steps(job.id) for table in step.report]
    assert "words-exact" in str(tables) or "words exact" in str(tables)

    target = tmp_path / "exported"
    job = station.run(
        f'kind = "export"\nmodel = "{model}"\ntarget = "words-form"\nto = "{target}"\n'
    )
    assert job.state is JobState.SUCCEEDED
    assert (target / "contents.json").is_file()

    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "facts.words").write_text("the sky = blue\n")
    job = station.run(f'kind = "rag"\nfolder = "{folder}"\nindex = "facts"\n')
    assert job.state is JobState.SUCCEEDED
    assert "the sky is blue." in station.rag.search("facts", "sky").hits[0].text
