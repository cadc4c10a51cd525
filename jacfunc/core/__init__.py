"""What knows no derivative: trees of tensors, what is remembered, how near numbers are, what surrounds a call."""
