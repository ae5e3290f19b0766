"""Damage to files, drawn by hypothesis: bytes that flip, files that end early, entries that change."""

import copy
import json
import os
import struct
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from circuitkit.errors import CircuitKitError

_ODD = [
    *(None, True, False, 0, 1, -1, 2, 10**30, 0.5, -1.5, float("nan"), float("inf")),
    *("", "text", "..", "a.b", "/", "\0", "\ud800", "ioi", "eap"),
    *([], {}, [1], [[]], [None], ["text"], {"a": 1}, {"class_path": "eap"}, {"class_path": 1}),
]
"""Values that have no business where they turn up."""


def fuzz(examples: int) -> settings:
    """Few examples, always the same; with CIRCUITKIT_FUZZ=NUMBER so many random ones, for runs by hand."""
    asked = int(os.environ.get("CIRCUITKIT_FUZZ", "0"))
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    return settings(
        max_examples=asked or examples,
        derandomize=not asked,
        deadline=None,
        database=None,
        suppress_health_check=[*checks, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a version of some bytes with a few changes."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(["flip", "write", "cut", "end", "insert", "repeat"])):
            case "flip" if found:
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "write":
                found[at : at + length] = draw(st.binary(min_size=1, max_size=length))
            case "cut":
                del found[at : at + length]
            case "end":
                del found[at:]
            case "insert":
                found[at:at] = draw(st.binary(max_size=length))
            case _:
                found[at:at] = found[at : at + 4 * length]
    return bytes(found)


@st.composite
def damaged_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a version of nested plain data with a few entries changed, renamed, removed, doubled or swapped."""
    found = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        if not places:
            return draw(st.sampled_from(_ODD))
        owner, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["set", "set", "drop", "rename", "double", "swap", "nest", "number", "add"])):
            case "set":
                owner[key] = copy.deepcopy(draw(st.sampled_from(_ODD)))
            case "drop":
                del owner[key]
            case "rename" if isinstance(owner, dict):
                owner[draw(st.sampled_from(["other", "", f"{key} ", "class_path", "init_args"]))] = owner.pop(key)
            case "double" if isinstance(owner, list):
                owner.insert(key, copy.deepcopy(owner[key]))
            case "swap":
                other, name = draw(st.sampled_from(places))
                owner[key] = copy.deepcopy(other[name])
            case "number" if isinstance(owner[key], int | float):
                owner[key] = draw(st.integers(-(2**70), 2**70) | st.floats())
            case "add" if isinstance(owner, dict):
                owner[draw(st.text(max_size=8))] = copy.deepcopy(draw(st.sampled_from(_ODD)))
            case _:
                owner[key] = draw(st.sampled_from([[owner[key]], {"a": owner[key]}, str(owner[key])]))
    return found


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def as_json(tree: Any) -> bytes:
    """As Python's own writer would, also what strict JSON has not."""
    return json.dumps(tree).encode("utf-8", "replace")


def as_yaml(tree: Any) -> bytes:
    """As PyYAML would."""
    return yaml.safe_dump(tree).encode("utf-8", "replace")


@st.composite
def damaged_json(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a version of a JSON file, changed in its structure or in its bytes."""
    if draw(st.booleans()):
        return draw(damaged_bytes(data))
    return as_json(draw(damaged_tree(json.loads(data))))


@st.composite
def damaged_yaml(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a version of a YAML file, changed in its structure or in its bytes."""
    if draw(st.booleans()):
        return draw(damaged_bytes(data))
    return as_yaml(draw(damaged_tree(yaml.safe_load(data))))


@st.composite
def damaged_safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a version of a safetensors file, changed in its header or in its bytes.

    The header is JSON behind its length; in its `__metadata__` there may be JSON as text.
    """
    if draw(st.booleans()):
        return draw(damaged_bytes(data))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    inner = {key: text for key, text in header.get("__metadata__", {}).items() if text.startswith(("{", "["))}
    if inner and draw(st.booleans()):
        header["__metadata__"] |= {key: json.dumps(draw(damaged_tree(json.loads(text)))) for key, text in inner.items()}
    else:
        header = draw(damaged_tree(header))
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def refusal(action: Callable[[], Any]) -> str | None:
    """Return the error of an action, which must be of this package and one line; None if there is none."""
    try:
        action()
    except CircuitKitError as error:
        text = str(error)
        assert "\n" not in text.strip(), text
        assert len(text) < 1200, text
        return text
    return None
