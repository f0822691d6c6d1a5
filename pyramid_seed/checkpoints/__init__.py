"""Which model it is: the layouts of checkpoint folders, reading and loading them, digests of their files."""
