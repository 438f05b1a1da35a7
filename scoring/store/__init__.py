"""The score store: every paid answer, in an SQLite file."""
