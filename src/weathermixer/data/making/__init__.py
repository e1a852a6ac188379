"""Making stores: from archives, from a simulated planet, from analytic waves."""
