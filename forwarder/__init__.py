"""The VPN forwarder: publishes local virtual interfaces and installs the routes it is told into the kernel."""
