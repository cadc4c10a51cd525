"""Which entries of a Jacobian can be nonzero, found by following a function, and how few passes then give them all."""
