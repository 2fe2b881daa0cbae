"""Recordings: reading, judging, varying, making them."""
