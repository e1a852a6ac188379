"""Channels and their units, the store, preparing it from analyses, and reading it in order."""
