"""Colors that people with any color vision can tell apart: of methods in every chart."""

from collections.abc import Iterable

METHODS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#7b5ea7")
"""Okabe and Ito's colors (2008), without black and yellow, which are hard to see on dark and on light ground, and two
more; with more methods they begin again."""
CONTROL = "#7f7f7f"
"""Of the random control."""


def color_methods(methods: Iterable[str], controls: Iterable[str] = ()) -> dict[str, str]:
    """Give each method a color, in the order of their first appearance.

    Args:
        methods: their names.
        controls: the names of those that are random controls, which are gray.
    """
    gray = set(controls)
    names = [name for name in dict.fromkeys(methods) if name not in gray]
    colors = {name: METHODS[number % len(METHODS)] for number, name in enumerate(names)}
    return colors | dict.fromkeys(gray, CONTROL)
