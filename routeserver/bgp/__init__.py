"""BGP-4 without I/O: values, codec, FSM and session.  Imports nothing of ours but `schema.values`."""
