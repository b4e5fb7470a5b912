"""The Ask screen: questions to document indexes, with the evidence for every answer."""
