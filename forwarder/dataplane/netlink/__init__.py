"""Netlink messages and the socket that moves them; see docs/architecture.md."""
