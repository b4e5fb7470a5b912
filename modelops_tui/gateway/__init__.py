"""The gateway: the workbench over HTTP, and one OpenAI-compatible address for every deployment."""
