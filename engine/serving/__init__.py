"""Deployments: their records, the front that answers for them, and the servers behind it.

A deployment is a long-lived job of the kind ``serve``. Its worker owns the public port and starts
the backend's server behind it, so that a restart, an unload or a switch to another version never
changes the address.
"""
