"""Which model it is: layouts of checkpoint folders, reading and loading them, digests of their files."""
