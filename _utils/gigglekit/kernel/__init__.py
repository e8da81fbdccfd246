"""What a droplet asks of its kernel: parameters and swap."""
