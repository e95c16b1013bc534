"""raylm takes a language model from raw text to an autoscaled endpoint on a Ray cluster."""

__version__ = "0.1.0"
