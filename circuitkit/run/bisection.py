"""Where a circuit becomes faithful enough, over the sizes of a ranking or over the values of an operating point.

Faithfulness does not always grow with size, and a search costs time. So neither function tries everything: what they
find is the smallest of what they tried, and no proof that nothing smaller would do.
"""

import math
from collections.abc import Callable

GROWTH = 1.5
"""The ratio of the sizes that are tried first."""
RESOLUTION = 0.02
"""Sizes are bisected to this part of the size."""
FACTOR = 4.0
"""The ratio of the operating points that are tried first."""
CLOSE = 1.1
"""Operating points are bisected to this ratio."""
MOST_SEARCHES = 8


def find_size(edges: int, reaches: Callable[[int], bool]) -> int | None:
    """Find a small size that reaches the goal; None if none of those tried does.

    Sizes that grow by half are tried from 1 on, up to the first that reaches it. Between this one and the one before,
    bisection follows, to 2% of the size.

    Args:
        edges: the largest size; it is tried too.
        reaches: tells whether a size reaches the goal.
    """
    below, size = 0, 1
    while not reaches(size):
        if size >= edges:
            return None
        below, size = size, min(max(size + 1, int(size * GROWTH)), edges)
    while size - below > max(1, int(RESOLUTION * size)):
        middle = (below + size) // 2
        below, size = (below, middle) if reaches(middle) else (middle, size)
    return size


def bisect_places(start: float, edges: int, find: Callable[[float], tuple[bool, int]]) -> None:
    """Search at operating points, towards the sparsest one that reaches the goal.

    From the start on, they change by factors of 4 up to one on the other side of the goal. Between the last two,
    bisection on a logarithmic scale follows, until they differ by less than 10%, or their circuits by one edge. There
    are at most `MOST_SEARCHES` searches.

    Args:
        start: the first place on the operating point's scale, above 0; larger ones give sparser circuits.
        edges: of the full model; no place gives more.
        find: searches at a place; it tells whether the circuit reaches the goal, and how many edges it has.
    """
    ends: dict[bool, tuple[float, int]] = {}
    place = start
    for _ in range(MOST_SEARCHES):
        reached, size = find(place)
        ends[reached] = (place, size)
        if len(ends) == 2:
            (dense, more), (sparse, fewer) = ends[True], ends[False]
            if sparse / dense < CLOSE or more - fewer in (0, 1):
                return
            place = math.sqrt(dense * sparse)
        elif size == (0 if reached else edges):  # no sparser or denser circuit exists
            return
        else:
            place = place * FACTOR if reached else place / FACTOR
