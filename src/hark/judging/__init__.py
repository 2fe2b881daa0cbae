"""Scores and detections against the truth."""
