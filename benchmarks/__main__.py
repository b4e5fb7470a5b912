"""``python -m benchmarks [NAME ...]``: run the comparisons one after another, each in a process.

Every module here that has a ``main()`` is a comparison; it prints Markdown. Nothing else should run
on the machine meanwhile: ratios survive a noisy machine, absolute figures don't.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def available() -> list[str]:
    """Names of the comparisons, by their path under this folder."""
    names = []
    for file in sorted(HERE.rglob("*.py")):
        if file.name in {"__init__.py", "__main__.py"}:
            continue
        tree = ast.parse(file.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            names.append(".".join(file.relative_to(HERE).with_suffix("").parts))
    return names


def main() -> int:
    """Run the named comparisons (all of them without a name); the status is the worst one."""
    known = available()
    if "--list" in sys.argv:
        print("\n".join(known))
        return 0
    wanted = sys.argv[1:] or known
    worst = 0
    for name in wanted:
        if name not in known:
            print(f"there is no benchmark {name!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
        print(f"\n## {name}\n", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
