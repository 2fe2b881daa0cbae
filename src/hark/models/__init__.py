"""The networks: one published architecture and its configuration each."""
