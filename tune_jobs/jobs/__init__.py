"""Submission of sweeps to a cluster: the package, the W&B key, and the supervision of the driver."""
