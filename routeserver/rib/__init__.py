"""Routes without I/O: the VPN table, VRFs, selection, route-target indices and outboxes."""
