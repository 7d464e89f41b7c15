"""What there is: GPUs, nodes, inventory, node start, tokens, jobs, checks and metrics."""
