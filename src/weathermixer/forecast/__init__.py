"""Forecasting: a trained model applied to its own output, written as a Zarr that others read."""
