"""Published constructions over the primitives of the `cryptography` package; they know nothing of users."""
