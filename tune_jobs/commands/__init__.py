"""The commands of `python -m tune_jobs`: one file each, with arguments and output only."""
