"""The recipe grammar: TOML in, a frozen plan out, or every mistake at once."""
