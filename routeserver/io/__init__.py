"""Sockets, TLS, signals and the clock: everything that moves bytes between the world and the core."""
