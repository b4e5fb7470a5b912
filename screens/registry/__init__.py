"""The Registry screen: artifacts, signatures, lineage, stages and their gates."""
