"""Who may log in to a droplet, and the proof that the operator still can."""
