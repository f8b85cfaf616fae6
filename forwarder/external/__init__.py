"""End-systems that cannot run a forwarder themselves, served over VLANs and XMPP."""
