"""The disposable dispatcher: Huey on SQLite, job ids only."""
