"""From a run configuration to a request: memory estimate, plan, share, alternatives, submission."""
