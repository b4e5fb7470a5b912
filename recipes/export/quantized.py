"""Export of weights that are quantized already (GPTQ, AWQ, compressed-tensors, ...).

Nothing is computed anew: the folder is handed over as it is, completed and proven. The main
environment can't load most of these formats, so the result answers in the backend's environment
that made it; what it is compared with is the model it was quantized from, where the registry still
has it, else the same weights as their backend reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends import BackendProcess, BackendSpec, BackendStore, find
from engine.errors import ModelOpsError
from engine.models import ModelLocation, model_config, resolve_model
from recipes.measuring.proof import (
    LOSSLESS_GAP,
    NOISE_FACTOR,
    Proof,
    SourceAnswer,
    judge,
    load_answers,
)
from recipes.quantize.texts import Prompt

if TYPE_CHECKING:
    from engine.worker.context import StepContext

#: Who loads weights whose maker is not recorded, by ``quant_method``.
_LOADERS = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "llmcompressor",
    "bitsandbytes": "bitsandbytes",
    "hqq": "hqq",
}


def quant_method(location: ModelLocation) -> str:
    """``quant_method`` of the model's configuration; empty: it is not quantized."""
    if location.kind == "adapter":
        return ""
    config = (model_config(location) or {}).get("quantization_config") or {}
    return str(config.get("quant_method", "")).lower()


def loader(location: ModelLocation) -> BackendSpec | None:
    """The backend that made the weights, or can load them; None: nobody here can."""
    made = _report(location).get("settings", {}).get("backend")
    name = made or _LOADERS.get(quant_method(location))
    return find(str(name)) if name else None


def _report(location: ModelLocation) -> dict[str, Any]:
    """``report.json`` of the quantization, where the folder is one of our artifacts."""
    try:
        found = json.loads((location.path / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def allowed_gap(location: ModelLocation) -> float:
    """Nats by which the source may have preferred a token that came out otherwise."""
    texts: dict[str, dict[str, float]] = _report(location).get("measured", {})
    measured: dict[str, float] = next(iter(texts.values()), {})
    return max(LOSSLESS_GAP, NOISE_FACTOR * float(measured.get("noise", 0.0)))


def original(ctx: StepContext, location: ModelLocation) -> ModelLocation | None:
    """What the weights were quantized from, where it is still here."""
    if location.manifest is None:
        return None
    try:
        view = ctx.registry().resolve(location.manifest)
        source = next((p for rel, p in view.parents if rel == "quantized_from"), None)
        return resolve_model(source, ctx.paths) if source else None
    except ModelOpsError as error:
        ctx.note(f"the model it was quantized from is gone: {error}", "warning")
        return None


class Asker:
    """A backend's worker that answers prompts in its own environment; a context manager.

    Args:
        ctx: the step.
        backend: whose environment; made now where it is missing.

    Raises:
        MissingPart: its environment can't be made.
    """

    def __init__(self, ctx: StepContext, backend: BackendSpec) -> None:
        from recipes.backends.run import share_code

        store = BackendStore(ctx.paths)
        if not store.ready(backend):
            ctx.phase(f"making the environment of {backend.name}")
        python = store.ensure(backend, lambda text: ctx.note(text))
        self._ctx = ctx
        self._process = BackendProcess(
            backend,
            python,
            ctx.work_dir / f"{backend.name}.log",
            threads=ctx.threads,
            extra_path=(share_code(ctx.work_dir / "shared"),),
        )

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.close()

    def ask(
        self,
        folder: Path,
        heads: Sequence[Prompt],
        count: int,
        stops: Sequence[int],
        **more: Any,
    ) -> dict[str, Any]:
        """Greedy answers of the model in ``folder``: ``{"answers": [[token id]], ...}``.

        Raises:
            StepFailed: the model does not load there, with the reason.
        """
        from recipes.backends.run import show_events

        request = {
            "folder": str(folder),
            "texts": [p.text for p in heads],
            "prompts": [list(p.ids) for p in heads],
            "count": count,
            "stops": list(stops),
            "device": self._ctx.device,
            "threads": max(self._ctx.threads, 1),
            **more,
        }
        try:
            return self._process.call(
                "answer", request, show_events(self._ctx), lambda: self._ctx.should_stop
            )
        except InterruptedError:
            self._ctx.raise_stopped()
            raise


def prove_quantized(
    ctx: StepContext,
    location: ModelLocation,
    folder: Path,
    heads: Sequence[Prompt],
    count: int,
    stops: Sequence[int],
    from_original: Callable[[ModelLocation], list[SourceAnswer]],
) -> tuple[Proof, list[SourceAnswer], tuple[str, ...]]:
    """Round trip of the quantized ``folder`` in the environment of its backend.

    Returns:
        the proof, the source's answers (for further programs), and notes.
    """
    allowed = allowed_gap(location)
    source = original(ctx, location)
    backend = loader(location)
    method = quant_method(location)
    answers = from_original(source) if source is not None else None
    if backend is None:
        note = f"no backend here loads {method}: not answered through transformers"
        return Proof((), allowed, True, True, True, 0.0, ()), answers or [], (note,)
    # the backends' loaders ask what they made
    more = {"format": "awq" if method == "awq" else "gptq" if method == "gptq" else method}
    kept = ctx.work_dir / "answers.npz"
    ctx.phase(f"proving the export in the environment of {backend.name}")
    with Asker(ctx, backend) as asker:
        given = asker.ask(folder, heads, count, stops, keep=str(kept), **more)["answers"]
    if answers is None:
        answers = load_answers(kept)
    cases = tuple(judge(a, tokens, allowed) for a, tokens in zip(answers, given, strict=True))
    problems = tuple(c.describe(allowed) for c in cases if not c.accepted)
    against = source.name if source is not None else f"itself, as {backend.name} reads it"
    note = f"compared with {against}, through {backend.name}"
    return Proof(cases, allowed, True, True, True, 0.0, problems), answers, (note,)


def with_cases(proof: Proof, more: Proof) -> Proof:
    """Both proofs as one."""
    return replace(
        proof, cases=(*proof.cases, *more.cases), problems=(*proof.problems, *more.problems)
    )
