"""Batches for the trainer: padded rows, or rows in a line that attend to themselves only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.finetune.rows import TokenRow

IGNORED = -100
"""Label of tokens whose loss is not taken (torch's ``ignore_index``)."""


class RowDataset:
    """A map-style dataset: one row, or the rows of one packed sequence, per index."""

    def __init__(
        self, rows: Sequence[TokenRow], packs: Sequence[Sequence[int]] | None = None
    ) -> None:
        self._rows = rows
        self._packs = packs

    def __len__(self) -> int:
        return len(self._rows) if self._packs is None else len(self._packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._packs is None:
            return {"rows": [self._rows[index]]}
        return {"rows": [self._rows[i] for i in self._packs[index]]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, for grouping by length."""
        return [sum(len(row) for row in self[i]["rows"]) for i in range(len(self))]


@dataclass(frozen=True)
class PaddedBatch:
    """Collates one row per sequence, padded on the right to the longest of the batch.

    ``labels`` are ``IGNORED`` for padding and for what is not learned. Shapes are (batch, length).
    """

    pad_id: int

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        rows = [item["rows"][0] for item in items]
        shape = (len(rows), max(len(row) for row in rows))
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            length = len(row)
            tokens = torch.from_numpy(row.ids).long()
            ids[i, :length] = tokens
            mask[i, :length] = 1
            trained = torch.from_numpy(row.trained)
            labels[i, :length] = torch.where(trained, tokens, IGNORED)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@dataclass(frozen=True)
class FlatBatch:
    """Collates all rows of a batch one behind the other into one sequence without padding.

    For packed sequences and for padding-free batches. Positions restart with every row, and
    ``cu_seq_lens_q`` holds the borders for ``recipes.finetune.attention``. The first token of a row
    is never a label: it would be predicted from the row before it. Shapes are (1, tokens).

    Args:
        flash: borders as flash attention takes them (int32 tensors, for queries and keys).
    """

    flash: bool = False

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch

        rows = [row for item in items for row in item["rows"]]
        ids = np.concatenate([row.ids for row in rows]).astype(np.int64)
        trained = np.concatenate([row.trained for row in rows])
        lengths = np.array([len(row) for row in rows])
        borders = np.concatenate([[0], np.cumsum(lengths)])
        trained[borders[:-1]] = False
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids)[None],
            "labels": torch.from_numpy(np.where(trained, ids, IGNORED))[None],
            "position_ids": torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
            "cu_seq_lens_q": torch.from_numpy(borders.astype(np.int32)),
        }
        if self.flash:
            batch["cu_seq_lens_k"] = batch["cu_seq_lens_q"]
            batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
        return batch


@dataclass(frozen=True)
class PackedBatch:
    """Collates several rows per sequence.

    Positions restart with every row; without an attention mask transformers builds the
    block-diagonal causal mask from them, so that no row sees another. The first token of a row is
    never a label: it would be predicted from the row before it.
    """

    pad_id: int

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        length = max(sum(len(row) for row in item["rows"]) for item in items)
        shape = (len(items), length)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        positions = torch.zeros(shape, dtype=torch.long)
        for i, item in enumerate(items):
            at = 0
            for row in item["rows"]:
                end = at + len(row)
                tokens = torch.from_numpy(row.ids).long()
                ids[i, at:end] = tokens
                trained = torch.from_numpy(row.trained).clone()
                trained[0] = False
                labels[i, at:end] = torch.where(trained, tokens, IGNORED)
                positions[i, at:end] = torch.arange(len(row))
                at = end
            # padding is one more row of its own
            positions[i, at:] = torch.arange(length - at)
        return {"input_ids": ids, "labels": labels, "position_ids": positions}
