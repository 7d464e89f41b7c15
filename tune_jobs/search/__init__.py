"""Which trials there are and which go on: grids, samplers, early termination, populations, the next search."""
