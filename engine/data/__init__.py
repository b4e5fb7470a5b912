"""Rows, formats and dataset versions."""
