"""Pictures of scores and of fields: curves, score cards, spectra and maps."""
