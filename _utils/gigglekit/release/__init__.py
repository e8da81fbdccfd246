"""Releases of the app: fetched, built beside the running one, tried, made live, and taken back when they fail."""
