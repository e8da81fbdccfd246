"""Clips that the nightly job makes on one droplet, handed over to the one that serves them, by way of the bucket."""
