"""What a trial will need on a GPU, known before it runs and without one."""
