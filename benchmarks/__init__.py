"""Measured comparisons, side by side in one run; results in RESULTS.md."""
