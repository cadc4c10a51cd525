"""The founding example, measured: ``python -m jacfunc``."""
