"""What is done with finished sweeps: clean, hand over, model card and reproduce."""
