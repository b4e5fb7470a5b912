"""The workbench: full-screen, over any line, and only a view of what the engine does."""
