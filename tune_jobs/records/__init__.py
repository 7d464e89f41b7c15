"""What a sweep leaves behind: ledger and folders, snapshots, reproduction, hand-over, clean-up."""
