"""The report: a run and its verification on one page that needs nothing but a browser."""
