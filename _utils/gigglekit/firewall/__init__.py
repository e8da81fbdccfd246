"""The firewall as ufw keeps it: its rules, its settings files, and what the kernel really enforces."""
