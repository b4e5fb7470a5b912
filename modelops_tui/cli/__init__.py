"""The command line: one module a command group, each a thin call of ``engine.api``."""
