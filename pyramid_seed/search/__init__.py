"""Search over seeds, unit by unit, with a record from which the choice can be made again."""
