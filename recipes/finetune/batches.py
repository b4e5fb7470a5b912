"""Batches for the trainer: padded rows, or rows in a line that attend to themselves only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.finetune.rows import TokenRow

IGNORED = -100
"""Label of tokens whose loss is not taken (torch's ``ignore_index``)."""
#: A common beginning of fewer tokens costs more in attention than it saves in products.
_WORTH = 8


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
    ``cu_seq_lens_q`` holds the borders for ``recipes.finetune.attention``. Shapes are (1, tokens).

    A row ends before its last learned token: that one is predicted from the token before it, and
    nothing is predicted from it or from what comes after. It stands as a label only, in the place
    of the next row's first token, which is no label itself.

    Rows that begin alike (the same system prompt) have their common beginning once: it stands
    before them as a piece of its own, ``shared_by`` tells for every piece which one it goes on from
    (-1: none), and positions count on. Causal attention gives the beginning the same hidden states
    in every row, so that loss and gradients stay what they are. ``row_tokens`` counts whole rows.

    Args:
        flash: borders as flash attention takes them (int32 tensors, for queries and keys); nothing
            is shared there.
    """

    flash: bool = False

    @property
    def shares(self) -> bool:
        """Whether a common beginning stands once."""
        return not self.flash

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch

        rows = [row for item in items for row in item["rows"]]
        pieces, origins = lay_out(rows, share=self.shares)
        ids = np.concatenate([rows[i].ids[a:b] for i, a, b in pieces]).astype(np.int64)
        trained = np.concatenate([rows[i].trained[a:b] for i, a, b in pieces])
        lengths = np.array([b - a for _, a, b in pieces])
        borders = np.concatenate([[0], np.cumsum(lengths)])
        trained[borders[:-1]] = False
        labels = np.where(trained, ids, IGNORED)
        for place, (i, _, end) in zip(borders[1:-1], pieces, strict=False):
            row = rows[i]
            if end < len(row) and row.trained[end]:
                labels[place] = row.ids[end]
        positions = np.concatenate([np.arange(a, b) for _, a, b in pieces])
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids)[None],
            "labels": torch.from_numpy(labels)[None],
            "position_ids": torch.from_numpy(positions)[None],
            "cu_seq_lens_q": torch.from_numpy(borders.astype(np.int32)),
            "row_tokens": torch.tensor(sum(len(row) for row in rows)),
        }
        if max(origins) >= 0:
            batch["shared_by"] = torch.tensor(origins)
        if self.flash:
            batch["cu_seq_lens_k"] = batch["cu_seq_lens_q"]
            batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
        return batch


def lay_out(
    rows: Sequence[TokenRow], share: bool = True
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """How rows stand in one sequence: ``(pieces, origins)``.

    A piece is ``(row, first token, end)``; its origin is the piece that holds the row's beginning,
    or -1 where the row stands whole (or the piece is such a beginning). A beginning ends before the
    last token that is not learned: what is predicted from it stays in the row.
    """
    groups: list[tuple[int, list[int]]] = []
    may = [_unlearned(row) if share else 0 for row in rows]
    # rows that begin alike become neighbours; bytes order them as well as numbers would
    for i in sorted(range(len(rows)), key=lambda i: rows[i].ids[: may[i]].tobytes()):
        if groups:
            shared, members = groups[-1]
            common = _common(rows[members[-1]].ids[:shared], rows[i].ids[: may[i]])
            if common >= _WORTH:
                groups[-1] = (common, [*members, i])
                continue
        groups.append((may[i], [i]))
    pieces: list[tuple[int, int, int]] = []
    origins: list[int] = []
    for shared, members in groups:
        begin, origin = 0, -1
        if len(members) > 1:
            begin, origin = shared, len(pieces)
            pieces.append((members[0], 0, shared))
            origins.append(-1)
        pieces += [(i, begin, _last_input(rows[i])) for i in members]
        origins += [origin] * len(members)
    # the last row's last label has no place behind it
    i, begin, end = pieces[-1]
    pieces[-1] = (i, begin, min(end + 1, len(rows[i])))
    return pieces, origins


def common_beginning(rows: Sequence[TokenRow]) -> int:
    """How many tokens at their beginning all rows could have once in a batch; 0: not worth it."""
    if not rows:
        return 0
    first = rows[0].ids[: _unlearned(rows[0])]
    for row in rows:
        first = first[: _common(first, row.ids[: _unlearned(row)])]
        if len(first) < _WORTH:
            return 0
    return len(first)


def _last_input(row: TokenRow) -> int:
    """Where the row's inputs end: before its last learned token (at least one token stays)."""
    learned = row.trained.nonzero()[0]
    return max(int(learned[-1]), 1) if len(learned) else len(row)


def _unlearned(row: TokenRow) -> int:
    """How many tokens at the row's beginning it may share: all but the last before a learned one.

    The first token of what follows is no label, so that one unlearned token stays with the row.
    """
    learned = row.trained.nonzero()[0]
    return max(int(learned[0]) - 1 if len(learned) else len(row) - 1, 0)


def _common(first: Any, second: Any) -> int:
    """Length of the common beginning of two arrays of token ids."""
    size = min(len(first), len(second))
    differ = (first[:size] != second[:size]).nonzero()[0]
    return int(differ[0]) if len(differ) else size


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
