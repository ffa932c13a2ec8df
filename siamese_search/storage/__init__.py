"""Storage: the gallery's database, the only users of SQLite."""
