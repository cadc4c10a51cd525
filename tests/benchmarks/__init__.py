"""How long the derivatives take and how much memory, beside plain forwards and the peers: ``python -m benchmarks``."""
