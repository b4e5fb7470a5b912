"""GGUF files: made from Hugging Face checkpoints, quantized, read and evaluated.

Only small, dependency-free names live at module scope; ``gguf``, ``numpy`` and ``llama_cpp`` are
imported inside the functions that need them.
"""
