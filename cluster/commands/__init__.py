"""The command line `python -m cluster`."""
