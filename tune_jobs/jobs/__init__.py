"""A sweep on its way to a cluster: its package, its key, its driver that is started again."""
