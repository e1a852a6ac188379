"""The prepared store: what is on disk, writing it, reading it, looking into it."""
