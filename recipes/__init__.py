"""What jobs do: one folder a kind (schema, run function, ready TOML files)."""
