"""Lists of clips: read, shared out among processes, made, and kept account of."""
