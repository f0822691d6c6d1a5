"""Keyed noise for any diffusers pipeline: every random draw of a call seen, answered by seed, or told of."""
