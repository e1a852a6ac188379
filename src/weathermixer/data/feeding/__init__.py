"""From states to what a network is fed: samples, reading ahead, normalisation."""
