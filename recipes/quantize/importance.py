"""The importance matrix: mean squared input of every linear layer's columns over calibration text.

llama.cpp weighs the rounding error of a column by it (as its ``llama-imatrix`` tool computes it).
The sums are taken in hooks during plain forward passes and saved every few windows, so that a long
calibration resumes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.measuring.measure import cut
from recipes.quantize.texts import Stream, read, stream
from recipes.quantize.training_data import training_data

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.measuring.torch_model import TorchScorer
    from recipes.quantize.run import Source
    from recipes.quantize.schema import QuantizeSpec

#: Windows between two saved states.
_SAVE_EVERY = 16


def calibration_stream(ctx: StepContext, spec: QuantizeSpec, source: Source) -> Stream:
    """The calibration tokens: the recipe's data, else what the model was trained on, else ours."""
    ref = spec.calibration.data or training_data(ctx, source.location.manifest) or "mixed"
    name, examples = read(ref, ctx.paths)
    return stream(name, examples, source.tokenizer, spec.calibration.tokens)


def collect(
    ctx: StepContext,
    spec: QuantizeSpec,
    model: TorchScorer,
    calibration: Stream,
    check_stop: Callable[[], None],
) -> None:
    """Run the calibration windows and write ``importance.npz`` by GGUF tensor name."""
    import numpy as np
    import torch

    path = ctx.work_dir / "importance.npz"
    if path.is_file():
        return
    state = ctx.work_dir / "importance.state.npz"
    windows = cut(
        calibration.name, calibration.ids, len(calibration.ids), spec.calibration.window
    ).windows
    sums, done = _resume(state)
    accumulators = {k: torch.from_numpy(v) for k, v in sums.items()}
    handles = hook(model.model, accumulators)
    try:
        tokens = sum(len(w) for w in windows[:done])
        total = sum(len(w) for w in windows)
        for number in range(done, len(windows)):
            if number % _SAVE_EVERY == 0 and number > done:
                _save(state, accumulators, number)
            check_stop()
            model.forward(windows[number])
            tokens += len(windows[number])
            ctx.progress(tokens, total, "tokens")
    except BaseException:
        _save(state, accumulators, number)
        raise
    finally:
        for handle in handles:
            handle.remove()
    named = tensor_names(model.model)
    values = {
        named[name]: (acc / tokens).cpu().numpy().astype(np.float32)
        for name, acc in accumulators.items()
        if name in named
    }
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **values)
    os.replace(partial, path)
    state.unlink(missing_ok=True)


def hook(model: Any, sums: dict[str, Any]) -> list[Any]:
    """Add the squared inputs of every linear layer to ``sums``; returns the hooks' handles."""
    import torch

    handles = []
    # llama.cpp's own tool leaves the output matrix out, too
    output = model.get_output_embeddings()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 2 or isinstance(module, torch.nn.Embedding):
            continue
        if module is output:
            continue

        def add(_module: Any, inputs: tuple[Any, ...], name: str = name) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            total = torch.linalg.vector_norm(x.float(), dim=0).square_()
            if name in sums:
                sums[name] += total
            else:
                sums[name] = total

        handles.append(module.register_forward_pre_hook(add))
    return handles


def tensor_names(model: Any) -> dict[str, str]:
    """Hugging Face module -> GGUF tensor, for every layer a hook sees."""
    import gguf

    from recipes.gguf.families import family_of, read_config

    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    family = family_of(config)
    names = gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, family.arch), read_config(config).blocks
    )
    found = {}
    for name, _module in model.named_modules():
        target = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if target is not None:
            found[name] = target
    return found


def _resume(state: Path) -> tuple[dict[str, Any], int]:
    import numpy as np

    if not state.is_file():
        return {}, 0
    with np.load(state) as values:
        sums = {k: values[k] for k in values.files if k != "_done"}
        return sums, int(values["_done"])


def _save(state: Path, sums: dict[str, Any], done: int) -> None:
    import numpy as np

    partial = state.with_suffix(".partial.npz")
    np.savez(partial, _done=np.array(done), **{k: v.cpu().numpy() for k, v in sums.items()})
    os.replace(partial, state)


def load_importance(path: Path) -> dict[str, Any]:
    """Tensor name -> importance of its columns."""
    import numpy as np

    with np.load(path) as values:
        return {name: values[name] for name in values.files}
