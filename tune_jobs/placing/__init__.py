"""From a run configuration to its place: memory, share, card, and why a trial waits."""
