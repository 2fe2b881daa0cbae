"""hark: train keyword spotters, shrink them, and prove that what was shrunk still hears the same."""

__version__ = "0.1.0"
