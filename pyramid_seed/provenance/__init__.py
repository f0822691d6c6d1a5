"""How a clip was made: the manifest, and what is compared with it."""
