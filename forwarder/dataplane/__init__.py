"""The kernel, behind one contract: `contract` names it, `linux` is the real one, `fake` lives in memory."""
