"""The commands of `python -m tune_jobs`: one file each, arguments and output only."""
