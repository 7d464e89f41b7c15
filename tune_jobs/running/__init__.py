"""A sweep that runs: the conductor and its journal, the door to Tune, one trial in its process, recovery."""
