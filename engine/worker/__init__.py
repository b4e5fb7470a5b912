"""The process that runs one attempt: its context, its entry point, its last act."""
