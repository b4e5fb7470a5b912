"""A client process: submits jobs and prints each id after the job is accepted."""

from __future__ import annotations

import json
import sys

from engine.api.jobs import Jobs
from engine.paths import StatePaths
from tests.support.plans import Step, plan


def main() -> None:
    jobs = Jobs(StatePaths.default())
    for _ in range(int(sys.argv[1])):
        view = jobs.submit(plan(Step("probe", params=json.loads(sys.argv[2]))))
        sys.stdout.write(f"submitted {view.id} .\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
