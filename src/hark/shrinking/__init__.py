"""Fewer units, fewer bits."""
