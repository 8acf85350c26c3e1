"""The version of alexnet-infer."""

__version__ = "0.1.0"
