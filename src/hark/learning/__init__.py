"""From clips to a trained spotter."""
