"""Exports for other programs, and the proof that they behave like their source."""
