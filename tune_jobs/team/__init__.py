"""Who may use how many GPUs, and when: quotas, the books of the cluster, admission."""
