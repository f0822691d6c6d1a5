"""The commands of the command line, one module each: `add` declares one, `run` runs it."""
