"""Syncing a registry with a folder or any S3: push, pull, clone, status.

``transport`` moves bytes, ``remote`` says what a valid remote holds, ``push`` and ``pull`` move a
registry. Nothing here is imported before a remote is used.
"""
