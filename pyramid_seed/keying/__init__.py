"""Keyed noise for any diffusers pipeline: each random draw of a call is answered from a seed, or reported."""
