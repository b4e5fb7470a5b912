"""The source model in torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import BadInput, DoesNotFit
from recipes.measuring.torch_model import TorchScorer


def load_source(folder: Path, *, threads: int, device: str) -> TorchScorer:
    """Load a Hugging Face directory for evaluation: float32 on a CPU, bfloat16 on a GPU.

    A CPU without room for float32 gets bfloat16.

    Raises:
        BadInput: the files are no model.
        DoesNotFit: there is not enough memory.
    """
    import psutil
    import torch
    from transformers import AutoModelForCausalLM

    from recipes.loading.quiet import quiet_libraries

    torch.set_num_threads(max(threads, 1))
    stored = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    if device == "cpu" and stored > free:
        raise DoesNotFit(
            f"{folder.name} does not fit into memory",
            why=f"its weights are {stored / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            hint="close other programs, or quantize on a machine with more memory",
        )
    wide = device == "cpu" and 2.2 * stored < free
    with quiet_libraries():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32 if wide else torch.bfloat16,
                local_files_only=True,
                trust_remote_code=False,
            )
            model = model.to(device) if device != "cpu" else model
        except torch.OutOfMemoryError as error:
            raise DoesNotFit(
                f"{folder.name} does not fit onto the GPU",
                why=str(error).splitlines()[0],
                hint='set resources.device = "cpu"',
            ) from error
        except (ValueError, KeyError, OSError) as error:
            raise BadInput(
                f"{folder} can't be loaded", why=str(error).strip().splitlines()[0]
            ) from error
    return TorchScorer(model.eval())
