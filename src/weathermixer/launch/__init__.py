"""Ranks as processes: starting them, being one of them, agreeing with the others, ending."""
