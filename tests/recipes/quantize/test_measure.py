"""The figures of the report, against torch and against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from recipes.measuring.measure import Reference, cut, log_softmax
from recipes.measuring.proof import Proof, SourceAnswer, difference, exact_case, judge
from recipes.quantize.grid import grid_bits


class Table:
    """A scorer whose logits depend on the token only."""

    def __init__(self, logits: np.ndarray) -> None:
        self.rows = logits.astype(np.float32)
        self.n_vocab = logits.shape[1]

    def logits(self, tokens: tuple[int, ...]) -> np.ndarray:
        return self.rows[list(tokens)]


def quiet(_done: int, _total: int) -> None:
    return None


def go_on() -> None:
    return None


def test_the_figures_are_torchs(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(0)
    source, result = rng.normal(size=(50, 50)) * 3, rng.normal(size=(50, 50)) * 3
    ids = rng.integers(0, 50, 330).tolist()
    windows = cut("t", ids, 330, 100)
    reference = Reference(windows, tmp_path, 50)
    reference.compute(Table(source), quiet, go_on)
    assert reference.ready()
    found = reference.measure(Table(result), quiet, go_on)
    p = torch.tensor(source, dtype=torch.float32).log_softmax(-1)
    q = torch.tensor(result, dtype=torch.float32).log_softmax(-1)
    inputs = [t for w in windows.windows for t in w[:-1]]
    targets = [t for w in windows.windows for t in w[1:]]
    kl = (p[inputs].exp() * (p[inputs] - q[inputs])).sum(-1)
    assert found.tokens == 326
    assert found.kl == pytest.approx(float(kl.mean()), rel=2e-3)
    assert found.kl_p99 == pytest.approx(float(kl.quantile(0.99)), rel=5e-3)
    loss = -q[inputs, targets].mean()
    assert found.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)
    same = (p[inputs].argmax(-1) == q[inputs].argmax(-1)).float().mean()
    assert found.top1 == pytest.approx(float(same))


def test_a_model_against_itself_costs_nothing(tmp_path: Path) -> None:
    table = Table(np.random.default_rng(1).normal(size=(40, 3000)) * 4)
    reference = Reference(cut("t", list(range(40)), 40, 40), tmp_path, 3000)
    reference.compute(table, quiet, go_on)
    found = reference.measure(table, quiet, go_on)
    assert found.kl < 1e-5
    assert found.top1 == 1
    assert found.noise < 0.01
    assert found.perplexity == pytest.approx(found.source_perplexity, rel=2e-3)


def test_a_half_written_reference_is_not_ready(tmp_path: Path) -> None:
    table = Table(np.zeros((10, 20)))
    reference = Reference(cut("t", list(range(10)), 10, 5), tmp_path, 20)

    def stop() -> None:
        if list(tmp_path.glob("*.partial")):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        reference.compute(table, quiet, stop)
    assert not reference.ready()
    reference.compute(table, quiet, go_on)
    reference.path.write_bytes(reference.path.read_bytes()[:-2])
    assert not reference.ready()


def test_windows_begin_with_the_begin_token() -> None:
    found = cut("t", list(range(10, 20)), 10, 5, begin=1)
    assert found.windows == ((1, 10, 11, 12, 13), (1, 14, 15, 16, 17), (1, 18, 19))
    assert found.predicted == 10
    with pytest.raises(BadInput, match="too short"):
        cut("t", [3], 10, 5)


def test_a_flip_is_judged_by_the_sources_own_doubt() -> None:
    rows = log_softmax(np.array([[5.0, 0, 0, 0], [2.0, 1.95, 0, 0]], np.float32))
    answer = SourceAnswer("prompt", (1,), (0, 0), rows.astype(np.float16))
    assert judge(answer, [0, 0], 0.1).accepted
    undecided = judge(answer, [0, 1], 0.1)
    assert undecided.accepted
    assert (undecided.same, undecided.source_token, undecided.result_token) == (1, 0, 1)
    wrong = judge(answer, [2, 0], 0.1)
    assert not wrong.accepted
    assert wrong.gap == pytest.approx(5, abs=0.01)
    assert "token 1 is 2" in wrong.describe(0.1)
    assert not judge(answer, [0], 0.1).accepted  # it stopped too early
    assert not exact_case("p", [1, 2], [1, 2, 3]).accepted
    assert exact_case("p", [1, 2], [1, 2]).accepted


@pytest.mark.parametrize(("bits", "found"), [(4, 4), (3, 3), (8, None)])
def test_a_grid_is_seen_in_the_weights(bits: int, found: int | None, tmp_path: Path) -> None:
    import json

    from safetensors.numpy import save_file

    rng = np.random.default_rng(2)
    weights = rng.normal(size=(64, 256)).astype(np.float32)
    blocks = weights.reshape(-1, 32)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    on_grid = (np.round((blocks - low) / step) * step + low).reshape(weights.shape)
    save_file({"model.layers.0.mlp.up_proj.weight": on_grid}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert grid_bits(tmp_path) == found


def test_a_passed_proof_says_what_its_differing_answers_mean() -> None:
    rows = np.log(np.array([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05]])).astype(np.float16)
    answer = SourceAnswer("p", (1,), (0, 0), rows)

    def proof(given: list[int], allowed: float) -> Proof:
        case = judge(answer, given, allowed)
        problems = () if case.accepted else (case.describe(allowed),)
        same = judge(answer, [0, 0], allowed)
        return Proof((case, same), allowed, True, True, True, 1.0, problems)

    assert proof([0, 0], 0.3).difference() is None, "there is nothing to explain"
    assert proof([2, 0], 0.3).difference() is None, "a failed proof is an error, not a note"
    undecided = proof([1, 0], 0.3)
    assert undecided.summary() == "1/2 exact"
    words = undecided.difference() or ""
    # ln(0.5 / 0.4) = 0.22 nats
    assert words.startswith("1 of 2 answers differ")
    assert "by 0.22 nats at most, and up to 0.30 is within the noise" in words
    assert difference(json.loads(json.dumps(undecided.to_json()))) == words, "as report.json has it"
