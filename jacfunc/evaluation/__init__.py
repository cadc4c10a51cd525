"""What holds while f runs: corrected operations, random numbers, checkpoints, scripted code, linear maps."""
