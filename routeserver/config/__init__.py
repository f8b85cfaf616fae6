"""The configuration file, read once at the start and at every reload."""
