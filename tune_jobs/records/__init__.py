"""The records of a sweep: journal, ledger, folders and snapshots."""
