"""Short reprs of objects that a configuration can name."""

import inspect
from pathlib import Path

from circuitkit.errors import quote


def constructor_form(thing: object) -> str:
    """Return the call that makes an object, without the arguments that have their defaults.

    Each constructor argument is read from the attribute of the same name; one without such an attribute is left out.
    """
    given = []
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        value = getattr(thing, name, inspect.Parameter.empty)
        if value is not inspect.Parameter.empty and repr(value) != repr(parameter.default):
            given.append(f"{name}={quote(str(value) if isinstance(value, Path) else value)}")
    return f"{type(thing).__name__}({', '.join(given)})"
