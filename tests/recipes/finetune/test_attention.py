"""Attention within rows: values and gradients against torch's kernel in double precision."""

from __future__ import annotations

import pytest

LENGTHS = (5, 1, 40, 17)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_attend_to_themselves_only(dtype: str, autocast: bool) -> None:
    import torch

    from recipes.finetune.attention import row_attention

    torch.manual_seed(0)
    total, heads, shared, width = sum(LENGTHS), 6, 2, 16
    kind = getattr(torch, dtype)
    shapes = [(1, heads, total, width), (1, shared, total, width), (1, shared, total, width)]
    inputs = [torch.randn(shape).to(kind).requires_grad_() for shape in shapes]
    truth = [x.detach().double().requires_grad_() for x in inputs]
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
    flow = torch.randn(1, total, heads, width)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, weights = row_attention(
            torch.nn.Module(), inputs[0], inputs[1], inputs[2], None, cu_seq_lens_q=borders
        )
    assert weights is None
    assert out.dtype == kind
    out.backward(flow.to(kind))

    # one mask over the whole sequence: the same row, and not the future
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    seen = (row[:, None] == row[None]) & torch.ones(total, total).tril().bool()
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *truth, attn_mask=seen, enable_gqa=True
    ).transpose(1, 2)
    wanted.backward(flow.double())
    near = 1e-5 if dtype == "float32" else 6e-3
    found = [out, *(x.grad for x in inputs)]
    right = [wanted, *(x.grad for x in truth)]
    for one, other in zip(found, right, strict=True):
        assert one is not None
        assert other is not None
        assert ((one.double() - other).norm() / other.norm()).item() < near


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shared_beginning_is_seen_by_its_rows_only(dtype: str) -> None:
    import torch

    from recipes.finetune.attention import row_attention

    torch.manual_seed(0)
    # a beginning of 9, two rows that go on from it, a row of its own, another beginning and its row
    lengths, origins = [9, 5, 12, 6, 3, 7], [-1, 0, 0, -1, -1, 4]
    total, heads, groups, width = sum(lengths), 6, 2, 16
    kind = getattr(torch, dtype)
    shapes = [(1, heads, total, width), (1, groups, total, width), (1, groups, total, width)]
    inputs = [torch.randn(shape).to(kind).requires_grad_() for shape in shapes]
    truth = [x.detach().double().requires_grad_() for x in inputs]
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    flow = torch.randn(1, total, heads, width)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        out, _ = row_attention(
            torch.nn.Module(), inputs[0], inputs[1], inputs[2], None,
            cu_seq_lens_q=borders, shared_by=torch.tensor(origins),
        )  # fmt: skip
    out.backward(flow.to(kind))

    piece = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    origin = torch.tensor(origins)[piece]
    own = (piece[:, None] == piece[None]) & torch.ones(total, total).tril().bool()
    seen = own | (origin[:, None] == piece[None])
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *truth, attn_mask=seen, enable_gqa=True
    ).transpose(1, 2)
    wanted.backward(flow.double())
    near = 1e-5 if dtype == "float32" else 6e-3
    for one, other in zip(
        [out, *(x.grad for x in inputs)], [wanted, *(x.grad for x in truth)], strict=True
    ):
        assert one is not None
        assert other is not None
        assert ((one.double() - other).norm() / other.norm()).item() < near


def test_short_rows_are_multiplied_in_fp32_on_a_cpu() -> None:
    """What bf16 rounds away in the products is what this saves: time, and precision with it."""
    import torch

    from recipes.finetune.attention import SHORT_ROW, _products

    query = torch.zeros(1, 1, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with _products(query, SHORT_ROW) as wanted:
            assert wanted == torch.float32
            assert not torch.is_autocast_enabled("cpu")
        with _products(query, SHORT_ROW + 1) as wanted:
            assert wanted == torch.bfloat16
        with _products(query.detach(), 4) as wanted:
            assert wanted == torch.bfloat16
    with _products(query.detach().float().requires_grad_(), 4) as wanted:
        assert wanted == torch.float32


def test_padded_batches_are_those_of_sdpa() -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from recipes.finetune.attention import row_attention

    torch.manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    inputs = [torch.randn(2, 4, 12, 8, requires_grad=True) for _ in range(3)]
    ours, _ = row_attention(module, inputs[0], inputs[1], inputs[2], None)
    theirs, _ = sdpa_attention_forward(module, *inputs, None)
    assert torch.equal(ours, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = row_attention(module, inputs[0], inputs[1], inputs[2], None)
    # in fp32 although autocast says bf16
    assert (mixed - theirs).abs().max() < 1e-6
