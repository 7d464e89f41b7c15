"""What every package needs and none owns: errors, files, units, strict YAML, command lines."""
