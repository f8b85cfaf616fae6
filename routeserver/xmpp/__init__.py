"""XMPP and pub-sub without I/O: stream, SASL, stanzas and typed requests.  Imports nothing of ours but `schema`."""
