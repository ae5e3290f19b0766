"""How values are quoted in error messages."""

from typing import Any

import pytest

from circuitkit.errors import quote


@pytest.mark.parametrize(
    ("value", "shown"),
    [("Mary", "'Mary'"), (3, "3"), (" a\nb", r"' a\nb'"), ("\ud800", r"'\ud800'"), ([1, "x"], "[1, 'x']")],
)  # fmt: skip
def test_short_values_are_quoted_whole(value: Any, shown: str) -> None:
    assert quote(value) == shown


def test_long_and_deep_values_are_cut_and_stay_in_one_line() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in ("x\n" * 10**6, list(range(10**6)), dict.fromkeys(range(100), "y" * 100), deep, endless):
        text = quote(value)
        assert len(text) <= 210
        assert text.isprintable()
