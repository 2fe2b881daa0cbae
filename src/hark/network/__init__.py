"""Networks as streaming modules."""
