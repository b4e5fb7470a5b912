"""Fixtures every test may ask for by name."""

from __future__ import annotations

from tests.support.tiny_model import tiny_chat, tiny_model

__all__ = ["tiny_chat", "tiny_model"]
