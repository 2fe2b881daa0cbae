"""The models that come with hark, each a `.hark` file and its card."""
