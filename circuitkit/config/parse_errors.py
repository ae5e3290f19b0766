"""Converts jsonargparse's multi-line errors to one-line errors of this package.

Each function below recognizes one kind of message by its words and returns None for any other. jsonargparse may change
these words: a message that no function recognizes is passed on, on one line.
"""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterable

from circuitkit.config import registry
from circuitkit.errors import UsageError

_LONGEST = 400
_TYPE_NAMES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list in brackets, such as [a, b]",
    "Sequence": "a list in brackets, such as [a, b]",
    "dict": "a mapping, such as {key: value}",
}
_KIND_OF_BASE = {
    "DiscoveryStrategy": "strategies",
    "Task": "tasks",
    "PrecisionPolicy": "precision",
    "Objective": "objectives",
    "Ablation": "ablations",
}


def to_usage_error(error: ArgumentError, known: Iterable[str] = (), command: str = "circuitkit") -> UsageError:
    """Convert jsonargparse's error.

    Args:
        error: the error that it raised.
        known: the command's options, to suggest one for an unknown option.
        command: the command whose `--help` the message recommends.
    """
    text = str(error)
    keys = [key for key in re.findall(r'Parser key "([^"]+)"', text) if key != "spec"]
    owner = next(iter(re.findall(r"Problem with given class_path '([^']+)'", text)[::-1]), None)
    return (
        _unknown_option(text, owner, known)
        or _wrong_value(text, keys, owner)
        or _wrong_class(text, keys, owner)
        or _missing_argument(text, keys, owner, command)
        or _other(text, command)
    )


def _unknown_option(text: str, owner: str | None, known: Iterable[str]) -> UsageError | None:
    """Convert the error for an option that the command, or the class `owner`, does not have."""
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", text):
        owner = None
    elif not (unknown := re.search(r"Option '([^']+)' is not accepted", text)):
        return None
    name = unknown[1].removeprefix("--")
    if owner is None:
        top = name.partition("=")[0].partition(".")[0]
        return registry.unknown_name("option", top, sorted(known))
    arguments = inspect.signature(registry.import_object(owner)).parameters
    return registry.unknown_name(f"{owner.rpartition('.')[2]} argument", name, list(arguments))


def _wrong_value(text: str, keys: list[str], owner: str | None) -> UsageError | None:
    """Convert the error for a value that does not fit its argument's type."""
    if not (wrong := re.search(r"(?:Given value|Got value): (.*)", text)):
        return None
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", text, re.MULTILINE)
    if (base := re.search(r"Not a valid subclass of (\w+)", text)) and base[1] in _KIND_OF_BASE:
        expected.append(f"a name (`circuitkit list {_KIND_OF_BASE[base[1]]}`) or a class path")
    kinds = dict.fromkeys(map(_type_in_words, expected))
    wanted = " or ".join(sorted(kinds, key=lambda kind: "such as" in kind))
    of = f" of {owner.rpartition('.')[2]}" if owner else ""
    what = ".".join(keys) or "The configuration"
    is_text = "Given value type: <class 'str'>" in text
    value = "null" if wrong[1] == "None" and not is_text else repr(wrong[1])
    return UsageError(f"{what}{of} is {value}.", f"Give {wanted or 'a value of its type'}.")


def _wrong_class(text: str, keys: list[str], owner: str | None) -> UsageError | None:
    """Convert the error for a class path without a class, or with a class of another kind."""
    last = _last_line(text)
    if "is abstract" in last and owner is None and keys:
        return UsageError(f"The {keys[0]} has no name.", f"Give it: --{keys[0]} NAME, besides its arguments.")
    if "does not correspond to a subclass" in last:
        return UsageError(f"{last}.", "Give the name or class path of one; `circuitkit list` shows them.")
    if "No module named" in last or "has no attribute" in last:
        return UsageError(f"{owner!r} cannot be imported: {last}.", "Check the class path, or use a short name.")
    return None


def _missing_argument(text: str, keys: list[str], owner: str | None, command: str) -> UsageError | None:
    last = _last_line(text)
    if "is required but not included" not in last and "following arguments are required" not in last:
        return None
    if not (missing := re.search(r'[Kk]ey "([^"]+)"|required: (.+)', last)):
        return None
    names = (missing[1] or missing[2]).replace(", ", ", no ")
    if owner:
        class_name, option = owner.rpartition(".")[2], ".".join([*keys, names.partition(",")[0]])
        return UsageError(f"{class_name} is given no {names}.", f"Give its init_args, such as {option}.")
    return UsageError(f"No {names} is given.", f"`{command} --help` shows what it takes.")


def _other(text: str, command: str) -> UsageError:
    """Put jsonargparse's own text on one line."""
    line = "; ".join(part.strip(" -.") for part in text.splitlines() if part.strip(" -."))
    return UsageError(f"{line[:_LONGEST]}.", f"`{command} --help` shows what it takes.")


def _last_line(text: str) -> str:
    return [line.strip(" -") for line in text.splitlines() if line.strip()][-1]


def _type_in_words(kind: str) -> str:
    if match := re.fullmatch(r"<class '(?:[\w.]+\.)?(\w+)'>", kind):
        return _TYPE_NAMES.get(match[1], f"a {match[1]}")
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return match[1].replace(", ", " or ")
    return kind
