"""Independent float64 implementations, written from the formulas and sharing no code with src."""
