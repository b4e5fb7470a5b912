"""Hugging Face directory -> unquantized GGUF by ``convert_hf_to_gguf.py``, as llama.cpp ships it.

The script and its ``gguf-py`` were unpacked from the sdist when the environment was made; nothing
of them is kept in this program.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, WorkerError, serve  # type: ignore[import-not-found]

_TYPES = {"auto": "auto", "F32": "f32", "F16": "f16", "BF16": "bf16"}


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Convert ``request["source"]`` into the file ``request["output"]``."""
    script = next(Path(sys.prefix).glob("sdist/**/convert_hf_to_gguf.py"), None)
    if script is None:
        raise WorkerError(
            "llama.cpp's converter is not in this environment",
            hint="modelops-tui backends install llama-cpp-convert --again",
        )
    tell({"phase": "converting with llama.cpp's script"})
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            request["source"],
            "--outfile",
            request["output"],
            "--outtype",
            _TYPES[request["dtype"]],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        hint = ""
        if "pre-tokenizer was not recognized" in done.stderr:
            hint = (
                "llama.cpp's script knows tokenizers of published models only; ours looks at the "
                'rule itself: set backend = "llama-cpp"'
            )
        raise WorkerError("llama.cpp's converter failed", lines[-1] if lines else "", hint)
    return {"settings": {"outtype": request["dtype"]}, "versions": {"script": script.parent.name}}


def load(_folder: Path, _request: dict[str, Any]) -> Any:
    """Results are measured by llama.cpp in the main environment."""
    raise WorkerError("this backend only converts")


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
