"""Explore clips and seeds: comparisons, sweeps, and measures of what a clip shows."""
