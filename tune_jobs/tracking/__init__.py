"""W&B: a process beside the driver mirrors the sweep's files to it; reading runs for the weekly dashboard."""
