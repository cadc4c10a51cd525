"""An nn.Module as a pure function: its tensors exchanged, and what a function is made of."""
