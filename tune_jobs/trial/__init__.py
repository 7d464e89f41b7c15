"""The trial's process: hold, train, report, checkpoints and several ranks."""
