"""What a run leaves behind, and what watches over it."""
