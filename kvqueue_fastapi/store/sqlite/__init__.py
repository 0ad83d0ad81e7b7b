"""The SQLite engine: the embedded default."""
