"""Look at clips and at seeds: comparisons, sweeps and measures of what is in a clip."""
