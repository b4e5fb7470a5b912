"""A backend folder: backend.toml, requirements.lock and worker.py."""
