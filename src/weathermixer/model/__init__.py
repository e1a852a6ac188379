"""WeatherMixer, written once, for one rank or many."""
