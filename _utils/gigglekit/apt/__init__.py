"""apt's own configuration."""
