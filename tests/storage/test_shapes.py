"""Values from files: what is plain, and what has a shape."""

from datetime import date
from typing import Any

import pytest

from circuitkit.storage.shapes import check_plain, check_shape

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
MANY: list[Any] = [0] * 10
for _ in range(9):
    MANY = [MANY] * 10
SHAPE = {"name": str, "sizes": [float], "best": (int, type(None)), "inner": {"a": dict}}
GOOD = {"name": "x", "sizes": [1, 0.5], "best": None, "inner": {"a": {}, "more": 1}, "more": 2}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (CYCLE, "cyclic, or nested"),
        (MANY, "more than 1,000,000 parts"),
        ({b"a": 1}, "b'a' is no key"),
        ({date(2026, 1, 1): 1}, "is no key"),
        ({"a": ["\ud800"]}, "UTF-8"),
        ({"\ud800": 1}, "UTF-8"),
    ],
)
def test_values_that_are_not_plain(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_plain(value)


def test_plain_values() -> None:
    check_plain({"a": [1, None, {"ü": 2.5}], 3: True})


def test_a_value_of_the_shape() -> None:
    check_shape(GOOD, SHAPE, "it")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": 1}, "it.name is 1, not text"),
        ({"sizes": 1}, "it.sizes is 1, not a list"),
        ({"sizes": [1, True]}, r"it.sizes\[1\] is True, not a finite number"),
        ({"sizes": [float("nan")]}, "not a finite number"),
        ({"sizes": [10**400]}, "not a finite number"),
        ({"best": 1.5}, "it.best is 1.5, not a whole number or null"),
        ({"inner": {}}, "it.inner has no entry 'a'"),
        ({"inner": None}, "it.inner is None, not a mapping"),
    ],
)
def test_a_value_of_another_shape(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_shape(GOOD | changed, SHAPE, "it")
