"""How a clip was made: the manifest, and comparisons with it."""
