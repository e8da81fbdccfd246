"""What dpkg knows about files, read from its database without starting a process."""
