"""A backend folder that only serves: backend.toml and requirements.lock."""
