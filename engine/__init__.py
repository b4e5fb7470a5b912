"""The machinery: recipe grammar, job store, queue, supervision, registry, data, devices.

Importing this package costs nothing; every heavy library is imported inside the function that
needs it.
"""
