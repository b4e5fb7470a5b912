"""GPUs, memory and what fits."""
