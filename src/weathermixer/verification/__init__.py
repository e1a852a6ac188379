"""Verification: forecasts against what happened, beside persistence and climatology."""
