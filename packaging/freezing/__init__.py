"""Making a bundle: which modules go into it, what it is made of, and one archive of it."""
