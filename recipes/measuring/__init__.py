"""Comparing a model with its source: perplexity, KL divergence, greedy round trips.

Needs only numpy (and torch where a torch model is measured), so that the environments of isolated
backends can import it, too.
"""
