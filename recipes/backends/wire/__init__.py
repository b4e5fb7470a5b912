"""Runs inside the environments of backends: standard library and the backend's packages only."""
