"""What systemd says of its units, and what is asked of it."""
