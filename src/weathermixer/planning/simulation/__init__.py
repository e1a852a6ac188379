"""A step as it goes on in time on many ranks, from traces of the real code and a machine."""
