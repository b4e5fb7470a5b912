"""``accelerate launch`` for one run, bound to the worker's life.

``python -m recipes.finetune.launcher <note> <worker's pid> <arguments of accelerate launch>``.
It is accelerate's own command, called by its own function. Around it stands what a job needs: it
dies with the worker, the ranks die with it, and how the ranks ended is written to ``<note>``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from recipes.finetune.group import bind_to_parent

#: The ranks read here whose child they must be.
LAUNCHER_ENV = "MODELOPS_LAUNCHER"


def main() -> None:
    """Start the ranks and wait for them."""
    note = Path(sys.argv[1])
    bind_to_parent(int(sys.argv[2]))
    os.environ[LAUNCHER_ENV] = str(os.getpid())
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args(sys.argv[3:])
    # torchrun's own rendezvous on a free port of the loopback: no port is agreed on beforehand
    arguments.standalone = True
    try:
        launch_command(arguments)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        note.write_text(json.dumps({"exit_codes": codes}))
        sys.exit(1)


if __name__ == "__main__":
    main()
