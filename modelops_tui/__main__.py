"""``python -m modelops_tui`` is the same as the console script."""

from modelops_tui.cli.main import main

if __name__ == "__main__":
    main()
