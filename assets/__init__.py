"""Data files: stylesheets, themes, help texts, sample data. Read with ``importlib.resources``."""
