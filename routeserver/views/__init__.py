"""What the API shows of the core, as JSON-ready dictionaries."""
