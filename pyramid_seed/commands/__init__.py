"""The commands of the command line, one module each: `add` declares the command, `run` runs it."""
