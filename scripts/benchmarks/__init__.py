"""What `scripts/benchmark.py` measures: one module a subcommand."""
