"""W&B, told by a process beside the driver; the two doors to it."""
