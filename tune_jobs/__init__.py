"""What to try, when to stop, what was learned: sweeps of summarizers on a Ray cluster."""
