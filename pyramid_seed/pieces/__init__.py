"""Work cut into pieces that do not depend on who makes them, and those who share the pieces out."""
