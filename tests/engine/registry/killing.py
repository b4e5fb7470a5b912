"""What the kill -9 harness runs: a publisher or a pusher, over and over, until it is killed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from engine.api.artifacts import Artifacts
from engine.paths import StatePaths

PASSPHRASE = "correct horse battery"
CHANGES: dict[str, Callable[[Artifacts], object]] = {
    "rotate": lambda artifacts: artifacts.rotate_device_key(),
    "release": lambda artifacts: artifacts.create_release_key("anna", PASSPHRASE),
}


def main() -> None:
    """``killing.py publish|push STATE SOURCES``: says each manifest id after it is accepted.

    ``rotate`` and ``release`` change the keys, once.
    """
    what, state, sources = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    artifacts = Artifacts(StatePaths(state))
    if what in CHANGES:
        CHANGES[what](artifacts)
        sys.exit(0)
    number = 0
    while True:
        number += 1
        folder = sources / f"{what}-{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "data.txt").write_text(f"{what} {state.name} {number} " * 500)
        view = artifacts.add(folder, name=f"bot-{state.name}", artifact_type="model")
        sys.stdout.write(view.id + "\n")
        sys.stdout.flush()
        if what == "push":
            artifacts.push()
            sys.stdout.write(f"pushed {view.id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
