"""The end-system route server: an XMPP pub-sub server towards forwarders and a BGP speaker towards routers."""
