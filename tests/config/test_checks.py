"""Checks of plain values."""

from typing import Any, get_args

import pytest

from circuitkit.config.checks import Examples, check_examples, check_split
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split


@pytest.mark.parametrize(
    ("given", "numbers", "plain"),
    [
        (1, (1, 1, 1), 1),
        (64, (64, 64, 64), 64),
        ([64, 32, 16], (64, 32, 16), [64, 32, 16]),
        ((8, 8, 8), (8, 8, 8), 8),
        (Examples(3, 1, 2), (3, 1, 2), [3, 1, 2]),
    ],
)
def test_examples_are_one_number_or_three(given: Any, numbers: tuple[int, ...], plain: Any) -> None:
    found = check_examples(given)
    assert found == numbers
    assert (found.of("train"), found.of("validation"), found.of("test")) == numbers
    assert (found.plain, type(found.plain)) == (plain, type(plain))
    assert check_examples(found) == check_examples(found.plain) == found


@pytest.mark.parametrize(
    "given", [0, -1, True, 2.0, "3", None, [], [4], [4, 4], [4] * 4, [4, 0, 4], [4, 4.0, 4], [True] * 3, "444", {4: 4}]
)
def test_other_examples_are_refused_and_quoted(given: Any) -> None:
    with pytest.raises(UsageError, match=r"neither a positive integer nor three.*such as \[64, 32, 64\]") as caught:
        check_examples(given)
    assert str(caught.value).startswith(f"examples={given!r} ")


def test_splits_are_those_of_tasks() -> None:
    assert Examples._fields == get_args(Split)
    assert [check_split(split) for split in get_args(Split)] == list(get_args(Split))


@pytest.mark.parametrize("given", ["dev", "count", "index", "_fields", "plain", "", None, ["train"], 3])
def test_other_splits_are_refused(given: Any) -> None:
    for check in (check_split, Examples(1, 2, 3).of):
        with pytest.raises(UsageError, match=r"There is no split .*train, validation, test"):
            check(given)
