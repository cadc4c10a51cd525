"""Training at scale: any number of points in flat memory, on any number of processes."""
