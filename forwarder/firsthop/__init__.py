"""What a VM is told by its first hop: neighbor discovery, router advertisements, DHCPv4 and DHCPv6."""
