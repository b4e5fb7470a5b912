"""The signed local registry of artifacts."""
