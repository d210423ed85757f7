"""What the commands share: output, processes, packages that are not installed, and the judge of a mapping."""
