"""Proves exports through vLLM: it answers prompts, and makes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import serve  # type: ignore[import-not-found]
from vllm_answers import answer, load, quantize  # type: ignore[import-not-found]

if __name__ == "__main__":
    serve(quantize=quantize, load=load, answer=answer)
