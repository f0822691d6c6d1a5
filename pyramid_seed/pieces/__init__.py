"""Work cut into pieces that do not depend on who computes them, and the workers that share them."""
