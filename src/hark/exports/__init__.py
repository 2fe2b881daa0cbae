"""Models for other runtimes: one module each."""
