"""Checks before, during and after a sweep."""
