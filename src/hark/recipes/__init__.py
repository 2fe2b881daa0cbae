"""Chains of stages, and the runs they make."""
