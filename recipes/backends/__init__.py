"""The backends that come with the program, a folder each, and the recipe side that uses them.

``wire`` is the part of the protocol that runs inside a backend's own environment.
"""
