"""What a search tests: single edges and, with screening, groups of them; guessed from estimates."""

from dataclasses import dataclass

from torch import Tensor

MOST_CLOSE = 2
"""The number of close guesses that ends a batch."""
CLOSE_FACTOR = 2.0
"""A guess is close if the estimate is between threshold / CLOSE_FACTOR and threshold * CLOSE_FACTOR.

This only ends batches early. Which *decisions* are close, and so rechecked, is measured: see `rechecks.py`.
"""


@dataclass
class Item:
    """The edges that one test removes: a single edge of the open reader, or a group that screening expects to remove.

    Attributes:
        writers: the edges' writers.
        expect_removal: the guess that they will be removed.
        joint: whether their joint effect is compared with the sum of their estimates instead of the threshold.
        close: whether the estimate is near the threshold, so that the guess may be wrong.
    """

    writers: list[int]
    expect_removal: bool
    joint: bool
    close: bool = False

    def halves(self) -> list["Item"]:
        """Split a group into two of half the size; a single edge is tested against the threshold."""
        middle = len(self.writers) // 2
        parts = [part for part in (self.writers[:middle], self.writers[middle:]) if part]
        return [Item(part, True, joint=len(part) > 1) for part in parts]


def list_items(
    candidates: list[int], estimates: Tensor, threshold: float, absolute: bool, screen: float | None
) -> list[Item]:
    """List the items to test, in order: single edges and, with screening, groups with small estimated effects.

    Args:
        candidates: the writers of undecided edges, in order.
        estimates: of the effects of the reader's edges, `[U]`.
        threshold, absolute, screen: see `GreedySearch`.
    """
    compared = estimates.abs() if absolute else estimates
    expected = (compared < threshold).tolist()
    small = [False] * len(expected) if screen is None else (estimates.abs() < screen * threshold).tolist()
    close = ((compared > threshold / CLOSE_FACTOR) & (compared < threshold * CLOSE_FACTOR)).tolist()
    items: list[Item] = []
    for writer in candidates:
        if small[writer] and items and items[-1].joint:
            items[-1].writers.append(writer)
        else:
            items.append(Item([writer], expected[writer], small[writer], close[writer]))
    for item in items:  # a group of one is compared with the threshold instead, at the same cost
        item.joint &= len(item.writers) > 1
    return items


def next_batch(items: list[Item], depth: int) -> list[Item]:
    """Choose the next items to test: at most `depth`, ending with the `MOST_CLOSE`-th close guess."""
    close = 0
    for count, item in enumerate(items[:depth], start=1):
        close += item.close
        if close == MOST_CLOSE:
            return items[:count]
    return items[:depth]
