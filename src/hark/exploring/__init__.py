"""From a budget to the front of the best small spotters within it."""
