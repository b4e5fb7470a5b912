"""Textual screens and widgets over ``engine.api``; no logic, no state of their own."""
