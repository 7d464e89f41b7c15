"""The machines of a cluster: GPUs, nodes, inventory, node start, tokens, jobs, checks and metrics."""
