"""Rules in the app's database that this server keeps beside the app's own: only those that are ours by name are made or removed."""
