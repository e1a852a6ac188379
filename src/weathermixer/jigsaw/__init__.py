"""Jigsaw: layers cut over a mesh of ranks. Knows tensors and ranks, and nothing of weather."""
