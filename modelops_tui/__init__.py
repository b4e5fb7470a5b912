"""The front door: command line, TUI launcher, gateway and SDK. No logic of its own."""

__version__ = "0.1.0"
