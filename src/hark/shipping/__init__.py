"""From a trained spotter to what runs elsewhere."""
