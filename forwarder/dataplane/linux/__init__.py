"""The data plane of a stock Linux kernel; see docs/architecture.md."""
