"""Encrypted backup of clips and database to one bucket. The format is written down in docs/FORMAT.md."""
