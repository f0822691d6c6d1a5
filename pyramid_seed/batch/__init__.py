"""Lists of clips: read, divided among processes, made, and recorded."""
