"""How kinds are found: all of them, or one without its neighbours."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine.errors import NotFound
from engine.kinds import load_kind, load_kinds


def test_one_kind_is_loaded_without_the_others() -> None:
    code = (
        "import json, sys; from engine.kinds import load_kind; kind = load_kind('serve');"
        "print(json.dumps([kind.name, *(m for m in sys.modules if m.endswith('.schema'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["serve", "recipes.serve.schema"]


def test_it_is_the_same_kind_and_an_unknown_one_is_told_with_the_known() -> None:
    for name, kind in load_kinds().kinds.items():
        assert load_kind(name) is kind
    with pytest.raises(NotFound, match="known kinds: evaluate"):
        load_kind("nonsense")
