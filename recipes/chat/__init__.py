"""Chat with a model that is not deployed: loaded in a service process, kept for the next turn."""
