"""Estimates the GPU memory of a trial before it runs, without a GPU."""
