"""How ``loading.py`` measures the reading of samples beside a real training step."""
