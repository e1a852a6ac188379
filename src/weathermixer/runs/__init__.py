"""What a run leaves on disk: configuration, normalisation, checkpoints."""
