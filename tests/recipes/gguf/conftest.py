"""Fixtures of the conversion tests."""

from __future__ import annotations

from tests.recipes.quantize.steps import rows

__all__ = ["rows"]
