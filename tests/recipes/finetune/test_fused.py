"""The fused steps give autograd's own values and gradients, on the real tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.models import ModelLocation
from engine.paths import StatePaths
from recipes.finetune.batches import FlatBatch, PaddedBatch, RowDataset
from recipes.finetune.rows import TokenRow
from recipes.finetune.schema import FinetuneSpec
from tests.support.tiny_model import chat_rows


def adapted(model: Path, kernels: str, **train: Any) -> Any:
    """The tiny model with adapters whose second matrix is not zero."""
    import torch

    from recipes.finetune.building import build_model
    from recipes.loading import choose_precision

    spec = FinetuneSpec.model_validate(
        {
            "base": str(model),
            "data": {"train": "house/train"},
            "train": {"rank": 4, "kernels": kernels, "precision": "fp32", **train},
        }
    )
    location = ModelLocation("hf", model, None, "tiny")
    built = build_model(spec, location, choose_precision("fp32", "cpu"), "cpu", StatePaths(model))
    torch.manual_seed(5)
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return built.train()


def batch_of(model: Path, flat: bool = False) -> dict[str, Any]:
    from engine.data.formats import read_examples
    from engine.data.masks import Encoder
    from engine.data.rows import Row
    from recipes.finetune.rows import compact
    from recipes.loading import load_tokenizer

    rows = [Row(i, values) for i, values in enumerate(chat_rows(5), 1)]
    rows[2].values["messages"][1]["content"] *= 4
    encoder = Encoder(load_tokenizer(ModelLocation("hf", model, None, "tiny")))
    dataset = RowDataset(compact(encoder.encode(e) for e in read_examples(rows)))
    return (FlatBatch() if flat else PaddedBatch(0))([dataset[i] for i in range(5)])


def step(model: Any, batch: dict[str, Any], fused: bool) -> tuple[float, dict[str, Any]]:
    from recipes.finetune.loss import selective_loss

    loss = selective_loss(model, batch, None, fused)
    loss.backward()
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fused_steps_are_autograds_own(
    tiny_model: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # several chunks, so that their sums count
    monkeypatch.setattr("recipes.finetune.fused.LOGIT_CHUNK_BYTES", {"cpu": 4 * 1024 * 40})
    batch = batch_of(tiny_model)
    assert int((batch["labels"] >= 0).sum()) > 80
    plain_model = adapted(tiny_model, "plain", method=method)
    plain, wanted = step(plain_model, dict(batch), fused=False)
    own = float(plain_model(**batch).loss)
    loss, found = step(adapted(tiny_model, "auto", method=method), dict(batch), fused=True)
    assert own == pytest.approx(plain, rel=1e-6)
    assert loss == pytest.approx(plain, rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_all_plain_adapters_are_fused_and_can_be_switched_off(tiny_model: Path) -> None:
    import torch

    model = adapted(tiny_model, "auto")
    plain = adapted(tiny_model, "plain")
    fused = [m for m in model.modules() if "forward" in vars(m) and hasattr(m, "lora_A")]
    assert len(fused) == 14
    assert not [m for m in plain.modules() if "forward" in vars(m) and hasattr(m, "lora_A")]
    ids = torch.arange(3, 40)[None]
    with torch.no_grad(), model.disable_adapter(), plain.disable_adapter():
        without = model(ids).logits
        assert torch.equal(without, plain(ids).logits)
    with torch.no_grad():
        assert (model(ids).logits - without).abs().max() > 0.01


@pytest.mark.parametrize("more", [{"dropout": 0.1}, {"method": "dora"}, {"method": "qlora"}])
def test_other_adapters_keep_pefts_forward(tiny_model: Path, more: dict[str, Any]) -> None:
    model = adapted(tiny_model, "auto", **more)
    assert not [m for m in model.modules() if "forward" in vars(m) and hasattr(m, "lora_A")]


def test_flat_rows_are_padded_rows(tiny_model: Path) -> None:
    """Padding-free: the same loss and gradients, and no row sees another."""
    import torch

    from recipes.finetune.attention import register

    padded, wanted = step(adapted(tiny_model, "plain"), batch_of(tiny_model), fused=True)
    model = adapted(tiny_model, "auto", padding_free=True)
    assert model.config._attn_implementation == register()
    batch = batch_of(tiny_model, flat=True)
    flat, found = step(model, dict(batch), fused=True)
    assert flat == pytest.approx(padded, rel=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)
    # without the borders rows do see those before them: the test would notice
    joined = {k: v for k, v in batch.items() if k in ("input_ids", "labels")}
    assert step(adapted(tiny_model, "auto"), joined, True)[0] != pytest.approx(padded, rel=1e-4)
    # generation with padding on the left is masked as ever
    ids = torch.arange(3, 13).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        plain = adapted(tiny_model, "plain")(ids, attention_mask=mask).logits
        torch.testing.assert_close(model(ids, attention_mask=mask).logits[1, 4:], plain[1, 4:])


def test_rows_that_begin_alike_share_their_beginning(tiny_model: Path) -> None:
    """The system prompt stands once; loss and gradients are those of padded rows."""
    import torch

    rng = np.random.default_rng(3)

    def row(*parts: Any, learned: int, behind: int = 0) -> TokenRow:
        ids = np.concatenate(parts).astype(np.int32)
        places = np.arange(len(ids))
        return TokenRow(ids, (places >= len(ids) - learned) & (places < len(ids) - behind))

    def some(count: int) -> Any:
        return rng.integers(3, 500, count)

    one, other = some(20), some(12)
    rows = [
        *(row(one, some(n), learned=n - 2) for n in (9, 15)),
        row(one, some(30), learned=28, behind=4),
        *(row(other, some(n), learned=n - 1) for n in (8, 11)),
        row(some(25), learned=10),
        # learned nearly from its first token: it shares nothing
        row(one, some(5), learned=24),
    ]
    dataset = RowDataset(rows)
    items = [dataset[i] for i in range(len(rows))]
    padded, wanted = step(adapted(tiny_model, "plain"), PaddedBatch(0)(items), fused=True)
    batch = FlatBatch()(items)
    # the beginnings of two rows and of one; what comes behind the last learned token of a row, and
    # that token itself, but for the row at the end
    spared = 20 + 20 + 12 + 4 + (len(rows) - 1)
    assert batch["input_ids"].shape[1] == sum(map(len, rows)) - spared
    assert int(batch["row_tokens"]) == sum(map(len, rows))
    assert int((batch["labels"] >= 0).sum()) == sum(int(r.trained.sum()) for r in rows)
    flat, found = step(adapted(tiny_model, "auto", packing=True), dict(batch), fused=True)
    assert flat == pytest.approx(padded, rel=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)
    # a beginning that its rows don't attend to would be noticed
    lost = {k: v for k, v in batch.items() if k != "shared_by"}
    assert step(adapted(tiny_model, "auto", packing=True), lost, True)[0] != pytest.approx(
        padded, rel=1e-4
    )
    assert "shared_by" not in FlatBatch(flash=True)(items)


def test_sequences_are_filled_with_what_is_computed() -> None:
    from recipes.finetune.batches import common_beginning
    from recipes.finetune.rows import pack

    rng = np.random.default_rng(1)
    head = rng.integers(3, 500, 24)

    def row(count: int) -> TokenRow:
        ids = np.concatenate([head, rng.integers(3, 500, count)]).astype(np.int32)
        return TokenRow(ids, np.arange(len(ids)) >= 30)

    rows = [row(int(n)) for n in rng.integers(12, 60, 40)]
    shared = common_beginning(rows)
    assert shared == 24
    apart, together = pack(rows, 128), pack(rows, 128, shared)
    for packs in (apart, together):
        assert sorted(i for one in packs for i in one) == list(range(40))
    assert len(together) < 0.75 * len(apart)
    for one in together:
        (batch,) = FlatBatch()([{"rows": [rows[i] for i in one]}])["input_ids"]
        assert len(batch) <= 128
    # a row that is learned from its beginning shares nothing, nor does one that begins otherwise
    assert common_beginning([*rows, TokenRow(rows[0].ids, np.ones(len(rows[0]), bool))]) == 0
    assert common_beginning([*rows, TokenRow(rows[0].ids[3:], rows[0].trained[3:])]) == 0


def test_what_needs_a_gpu_says_so(tiny_model: Path) -> None:
    from engine.errors import BadInput

    with pytest.raises(BadInput, match="Liger kernels need a GPU"):
        adapted(tiny_model, "liger")
    with pytest.raises(BadInput, match="flash attention needs a GPU"):
        adapted(tiny_model, "auto", attention="flash")


def test_freed_memory_is_kept() -> None:
    """Blocks that glibc would map anew each time are not mapped again."""
    import subprocess
    import sys

    code = (
        "import resource, sys, numpy as np\n"
        "if sys.argv[1] == 'keep':\n"
        "    from recipes.finetune.memory import keep_freed_memory\n"
        "    assert keep_freed_memory()\n"
        "np.ones(1 << 26, np.uint8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): np.ones(1 << 26, np.uint8)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, how], capture_output=True, check=True
            ).stdout
        )
        for how in ("keep", "leave")
    ]
    assert faults[0] * 8 < faults[1]
