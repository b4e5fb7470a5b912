"""The Serve screen: deployments and how they do."""
