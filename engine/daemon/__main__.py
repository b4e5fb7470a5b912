"""The engine process: ``python -m engine.daemon`` (``$MODELOPS_HOME`` names the state directory).

``engine.lock`` is taken before anything heavy is imported: of many starters at once, all but one
leave within milliseconds.
"""

from __future__ import annotations

import os
import sys

from engine.daemon.lock import try_lock
from engine.paths import StatePaths

#: Exit status of a starter that lost the race: another engine runs already.
EXIT_OTHER_ENGINE = 75


def main() -> int:
    """Run the engine in the foreground until it is told to leave."""
    os.umask(0o077)
    paths = StatePaths.default().ensure()
    lock = try_lock(paths.engine_lock)
    if lock is None:
        sys.stderr.write("another engine runs in this state directory\n")
        return EXIT_OTHER_ENGINE
    return _serve(paths)


def _serve(paths: StatePaths) -> int:
    import logging

    from engine.errors import ModelOpsError

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        from engine.daemon.loop import MainLoop
        from engine.daemon.settings import EngineSettings
        from engine.daemon.space import refuse_network_folder

        refuse_network_folder(paths.root)
        paths.runs.mkdir(exist_ok=True)
        paths.locks.mkdir(exist_ok=True)
        MainLoop(paths, EngineSettings.load(paths)).run()
    except ModelOpsError as error:
        logging.getLogger(__name__).error("%s%s", error, f" ({error.hint})" if error.hint else "")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
