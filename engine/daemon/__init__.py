"""The engine process: lanes, sweep, socket, lifecycle."""
