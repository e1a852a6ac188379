"""Jigsaw: layers cut over a mesh of ranks. Knows tensors and ranks, and nothing of weather.

docs/jigsaw.md derives it, and examples/feed_forward.py uses it for another network. Import from the
modules: those that plan a mesh (``layout``) do without torch.
"""
