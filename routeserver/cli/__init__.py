"""The command line of the route server: one program, its verbs, and what they print."""
