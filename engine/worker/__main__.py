"""The worker: runs one attempt at a step. ``python -P -m engine.worker <attempt folder>``.

Its log is its stdout and stderr; its last act is ``result.json``. TERM asks the step to save and
leave (``StepContext.should_stop``).
"""

from __future__ import annotations

import signal
import sys
import threading

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

    from engine.worker.attempt import run_attempt

    run_attempt(Path(sys.argv[1]), _stop)


if __name__ == "__main__":
    main()
