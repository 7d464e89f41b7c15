"""Where a trial may run: memory estimates, GPUs, nodes, shares. Knows no transformers and no Tune."""
