"""Which trials there are and which continue: grids, samplers, early termination, populations, the next search."""
