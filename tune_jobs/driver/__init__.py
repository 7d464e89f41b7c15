"""The sweep's driver process: Tuner, its scheduler and searcher wrappers, recovery, phases and terminal view."""
