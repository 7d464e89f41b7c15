"""Shared by every package: errors, files, units, strict YAML, command lines."""
