"""The contract between route server and forwarder: route items, their XML and their names.

Both programs import this package and it imports neither.  `values` holds the small types, `items` the
`RouteItem` and its XML both ways, `names` the namespaces and item ids, `validation` the XSD check.
"""
