"""What the constructor of every class must do: its arguments are its configuration."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from circuitkit.config import specs
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.errors import UsageError


def check_arguments(make: Callable[[], Any], kind_of_class: str) -> str:
    """Check that the constructor's arguments are its configuration: typed, documented, kept, and checked.

    Args:
        make: makes an object of the class.
        kind_of_class: such as `strategies`.

    Returns:
        A remark, or nothing.

    Raises:
        ContractError: they are not.
        NotApplicableError: it has none.
    """
    made = make()
    kind, before = type(made), repr(vars(made))
    general = specs.base(kind_of_class).__mro__
    parameters = _read_parameters(kind)
    if not parameters:
        raise NotApplicableError("its constructor has no arguments")
    for name, parameter in parameters.items():
        if parameter.annotation is parameter.empty:
            refuse(f"The argument {name!r} has no type.", "Annotate it: configurations are checked against the types.")
        if not any(_describes(base, name) for base in kind.__mro__ if base not in general):
            refuse(f"The docstring of {kind.__name__} does not say what {name!r} is.", "Describe it under Args.")
        if not hasattr(made, name):
            refuse(
                f"{kind.__name__} has no attribute {name!r}, from which configurations are written.",
                f"Keep the argument as it was given: `self.{name} = {name}`.",
            )
        if parameter.annotation in (int, float):
            _check_number(kind, parameters, name, vars(made))
    if kind.__module__ in ("__main__", "builtins") or "<locals>" in kind.__qualname__:
        return "it is in no file: whether it can be made again from a configuration is not known"
    again = specs.make(kind_of_class, specs.describe(made))
    one, other = (specs.resolve(kind_of_class, specs.describe(each)) for each in (made, again))
    if one != other:
        refuse(
            f"{made!r}, made again from its configuration, is {again!r}.",
            "Keep every argument under its own name, as plain data.",
        )
    if repr(vars(made)) != before:
        refuse("Describing it changes it.", "Change no attribute outside of the constructor.")
    return ""


def _read_parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    """Read the constructor's parameters, with their types where these are written as text (`annotations`)."""
    try:
        return inspect.signature(kind, eval_str=True).parameters
    except (NameError, AttributeError, SyntaxError):  # imported for type checkers only
        return inspect.signature(kind).parameters


def _describes(kind: type, argument: str) -> bool:
    """Tell whether the docstring of a class describes an argument: `argument: ...`, alone or after others."""
    name = rf"\*{{0,2}}{re.escape(argument)}"
    line = rf"^[ \t]*(\*{{0,2}}\w+, )*{name}(, \*{{0,2}}\w+)*( \(.*\))?:"
    return re.search(line, kind.__doc__ or "", re.MULTILINE) is not None


def _check_number(kind: type, parameters: Any, name: str, given: dict[str, Any]) -> None:
    """Give NaN, which no number of a configuration may be."""
    arguments = {key: given[key] for key in parameters if key in given}
    try:
        kind(**{**arguments, name: math.nan})
    except UsageError:
        return
    except Exception as error:
        refuse(
            f"{name}=nan is refused with {type(error).__name__} and not with a UsageError.",
            "Raise UsageError(problem, remedy), which the command line shows as one line.",
        )
    refuse(
        f"{name}=nan is accepted.", f"Check the range in the constructor: `if not 0 < {name}: raise UsageError(...)`."
    )
