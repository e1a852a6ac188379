"""WeatherMixer: an MLP-Mixer for the atmosphere, and Jigsaw, the scheme that spreads it."""

__version__ = "0.1.0"
