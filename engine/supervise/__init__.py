"""Shim, locks and the life of one attempt's processes."""
