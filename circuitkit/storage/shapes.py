"""What a file of people may hold: plain values of bounded size, and the entries that its reader needs."""

import math
from collections.abc import Mapping
from typing import Any

_DEEPEST, _LARGEST = 50, 1_000_000
_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def check_plain(value: Any) -> None:
    """Refuse what later code could not write, print or even walk through.

    Raises:
        ValueError: the value is cyclic or deeply nested, has too many parts (YAML's anchors can make very many of few
            lines), a key that is no text, number or truth value, or a text that UTF-8 cannot write.
    """
    left = [(value, 0)]
    for count in range(_LARGEST):
        if not left:
            return
        one, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError(f"it is cyclic, or nested more than {_DEEPEST} deep")
        if isinstance(one, str) and not one.isascii():
            _check_text(one)
        elif isinstance(one, Mapping):
            for key in one:
                if not isinstance(key, str | int | float | bool | None):
                    raise ValueError(f"{repr(key)[:40]} is no key")
            left += [(part, depth + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list | tuple | set):
            left += [(part, depth + 1) for part in one]
        if len(left) + count > _LARGEST:
            break
    raise ValueError(f"it has more than {_LARGEST:,} parts")


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Check that a value has what its reader needs; it may have more.

    Args:
        value: from a file.
        shape: a type (`float`: any finite number); a tuple of types, for any of them; a mapping of keys to shapes; or a
            list with one shape, for a list of such values.
        where: the name of the value, for the message.

    Raises:
        ValueError: it does not; the message names the entry.
    """
    if isinstance(shape, dict):
        check_shape(value, dict, where)
        for key, inner in shape.items():
            if key not in value:
                raise ValueError(f"{where} has no entry {key!r}")
            check_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is {repr(value)[:60]}, not a list")
        for number, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{number}]")
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        if not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_WORDS[kind] for kind in kinds)
            raise ValueError(f"{where} is {repr(value)[:60]}, not {wanted}")


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        try:
            return isinstance(value, int | float) and math.isfinite(value)
        except OverflowError:  # an integer that no float holds
            return False
    return isinstance(value, kind)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{ascii(text)[:40]} is no text that UTF-8 can write") from error
