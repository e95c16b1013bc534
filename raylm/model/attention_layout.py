"""Where the documents of packed rows lie and what their tokens see, in the forms that backends of attention need.

A document may go on from another one of its row, its prefix: it sees all of that too, and counts its positions from there.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Span(NamedTuple):
    """One document of a row."""

    start: int
    count: int
    prefix: tuple[int, int] | None = None
    """Where the document that it goes on from begins and ends; None where there is none."""
    padding: bool = False

    @property
    def before(self) -> int:
        """Tokens of the prefix."""
        return self.prefix[1] - self.prefix[0] if self.prefix else 0


def layout(document_BT: torch.Tensor, prefix_BT: torch.Tensor | None = None) -> list[list[Span]]:
    """The documents of each row in order. Waits for the device.

    Args:
        prefix_BT: number of the document that a token's document goes on from; its own where there is none.
    """
    found = []
    prefixes = document_BT if prefix_BT is None else prefix_BT
    for numbers_T, prefixes_T in zip(document_BT.cpu(), prefixes.cpu(), strict=True):
        numbers, counts = torch.unique_consecutive(numbers_T, return_counts=True)
        begins = (counts.cumsum(0) - counts).tolist()
        at = {
            number: (start, start + count) for number, start, count in zip(numbers.tolist(), begins, counts.tolist(), strict=True)
        }
        row = []
        for number, (start, end) in at.items():
            prefix = int(prefixes_T[start])
            row.append(Span(start, end - start, None if prefix == number else at[prefix], number < 0))
        found.append(row)
    return found


def positions(spans: list[list[Span]]) -> torch.Tensor:
    """Position of each token in its document and what that goes on from, int64 [B, T] on the host."""
    return torch.stack([torch.cat([torch.arange(each.before, each.before + each.count) for each in row]) for row in spans])


def seen(
    document_BT: torch.Tensor | None,
    window: int | None,
    length: int,
    device: torch.device,
    prefix_BT: torch.Tensor | None = None,
    position_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mask for scaled dot-product attention, bool [B or 1, 1, T, T]: a token sees itself and what its document, and that
    document's prefix, said before.

    Padding is a document of its own: a row that may see nothing would become NaN.

    Args:
        position_BT: of `positions`, where there are prefixes and a window.
    """
    if document_BT is None:
        seen_BTT = torch.ones(1, length, length, dtype=torch.bool, device=device)
    else:
        seen_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    if document_BT is not None and prefix_BT is not None:
        seen_BTT |= prefix_BT[:, :, None] == document_BT[:, None, :]
    seen_BTT = seen_BTT.tril()
    if window is not None and position_BT is not None:
        seen_BTT &= position_BT[:, :, None] - position_BT[:, None, :] < window
    elif window is not None:
        seen_BTT = seen_BTT.triu(1 - window)
    return seen_BTT[:, None]


def seen_from(count: int, before: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Mask of the last `count` of `before + count` tokens over all of them, bool [count, before + count]."""
    seen_QK = torch.ones(count, before + count, dtype=torch.bool, device=device).tril(before)
    return seen_QK if window is None else seen_QK.triu(before + 1 - window)
