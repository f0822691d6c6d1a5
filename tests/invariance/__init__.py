"""One test per promise of docs/reproducibility.md, bitwise."""
