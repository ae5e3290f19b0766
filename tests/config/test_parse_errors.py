"""jsonargparse's errors as one-line messages; texts of its version 4.49 and texts that it has never used."""

import inspect
from argparse import ArgumentError

import pytest

from circuitkit.config.parse_errors import to_usage_error
from circuitkit.config.registry import import_object
from circuitkit.errors import UsageError

ACDC = "circuitkit.strategies.acdc.ACDC"
INSIDE = f"Problem with given class_path '{ACDC}':\n  - "


def convert(text: str) -> UsageError:
    return to_usage_error(ArgumentError(None, text), ["model", "seed", "strategy"], "circuitkit discover")


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        (
            "Unrecognized arguments: --sed 1",
            "There is no option 'sed'.",
            "Did you mean 'seed'? Known: model, seed, strategy.",
        ),
        (
            f"{INSIDE}Option 'thresholds' is not accepted",
            "There is no ACDC argument 'thresholds'.",
            f"Did you mean 'threshold'? Known: {', '.join(inspect.signature(import_object(ACDC)).parameters)}.",
        ),
        (
            "Parser key \"examples\":\n  Expected a <class 'int'>. Got value: many",
            "examples is 'many'.",
            "Give a whole number.",
        ),
        (
            f'Parser key "spec":\n  {INSIDE}Parser key "order":\n'
            "    Expected a typing.Literal['reverse', 'normal']. Got value: up",
            "order of ACDC is 'up'.",
            "Give 'reverse' or 'normal'.",
        ),
        (
            "Parser key \"x\":\n  - Expected a <class 'float'>\n  - Expected a <class 'NoneType'>\n  Given value: low",
            "x is 'low'.",
            "Give a number or null.",
        ),
        (
            "Parser key \"splits\":\n  Expected a <class 'list'>. Got value: test",
            "splits is 'test'.",
            "Give a list in brackets, such as [a, b].",
        ),
        (
            "Parser key \"x\":\n  - Expected a <class 'dict'>\n  - Expected a <class 'NoneType'>\n  Given value: 5",
            "x is '5'.",
            "Give null or a mapping, such as {key: value}.",
        ),
        (
            "Problem with given class_path 'my.Own':\n  - No module named 'my'",
            "'my.Own' cannot be imported: No module named 'my'.",
            "Check the class path, or use a short name.",
        ),
        (
            "'a.B' does not correspond to a subclass of Task",
            "'a.B' does not correspond to a subclass of Task.",
            "Give the name or class path of one; `circuitkit list` shows them.",
        ),
        (
            'Key "model" is required but not included',
            "No model is given.",
            "`circuitkit discover --help` shows what it takes.",
        ),
        (
            "the following arguments are required: model, task",
            "No model, no task is given.",
            "`circuitkit discover --help` shows what it takes.",
        ),
    ],
)
def test_known_wordings(text: str, problem: str, remedy: str) -> None:
    error = convert(text)
    assert (error.problem, error.remedy) == (problem, remedy)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Something new.", "Something new."),
        (
            "Something new:\n  - about the option model\n  - and more.\n\n",
            "Something new:; about the option model; and more.",
        ),
        ("a key is required, but in other words", "a key is required, but in other words."),
        ("x" * 2000, f"{'x' * 400}."),
    ],
)
def test_an_unknown_wording_is_passed_on_in_one_line(text: str, problem: str) -> None:
    error = convert(text)
    assert error.problem == problem
    assert error.remedy == "`circuitkit discover --help` shows what it takes."
    assert len(str(error).splitlines()) == 1
