"""Runs as tables, figures, a page."""
