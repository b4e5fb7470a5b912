"""The worker: runs one attempt at a step. ``python -P -m engine.worker <attempt folder>``.

Its log is its stdout and stderr; its last act is ``result.json``. TERM asks the step to save and
leave (``StepContext.should_stop``).
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# first of all: a TERM during the imports must be seen by the step, not end the process
_stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: _stop.set())


def main() -> None:
    """Run the attempt named on the command line, or wait for one (``--spare <socket>``)."""
    if sys.argv[1] == "--spare":
        from engine.worker.spare import serve_once

        serve_once(int(sys.argv[2]), _stop)
        return
    from pathlib import Path

    folder = Path(sys.argv[1])
    _begin_early(folder)
    from engine.worker.attempt import run_attempt

    run_attempt(folder, _stop)


def _begin_early(folder: Path) -> None:
    """A model server loads its libraries while this process loads its own."""
    import json

    try:
        spec = json.loads((folder / "spec.json").read_bytes())
    except (OSError, ValueError):
        # told by ``run_attempt``, with its reason
        return
    if spec.get("kind") == "serve":
        from engine.serving.warm import begin

        begin(spec)


if __name__ == "__main__":
    main()
