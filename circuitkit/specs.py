"""Specs: how a configuration names an object.

A spec is a short name (`eap`), a class name (`EAP`), a class path (`circuitkit.strategies.eap.EAP`), or a mapping with
one of these as `class_path` and constructor arguments as `init_args`. jsonargparse checks the arguments against the
constructor's types; it knows class paths only, so names are rewritten before it parses. Its errors, several lines
each, are said here in one.
"""

import copy
import importlib
import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from circuitkit import registry
from circuitkit.errors import UsageError

Spec = str | Mapping[str, Any]

_BASES = {
    "strategies": "circuitkit.strategies.base.DiscoveryStrategy",
    "tasks": "circuitkit.tasks.base.Task",
    "policies": "circuitkit.precision.policy.PrecisionPolicy",
    "objectives": "circuitkit.objective.Objective",
    "ablations": "circuitkit.engine.ablation.Ablation",
}
_MODEL = {"kv": "group", "dtype": "float32"}
_SHAPE = "Give a name, or a mapping with class_path and, if need be, init_args."


def base(kind: str) -> Any:
    """The class that everything of a kind (`strategies`, `tasks`, ...) derives from."""
    return _imported(_BASES[kind])


def rewritten(kind: str, spec: Any) -> dict[str, Any]:
    """A spec with its class path, as jsonargparse wants it.

    Raises:
        UsageError: the name is unknown, or the spec has another shape.
    """
    if isinstance(spec, str):
        spec = {"class_path": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("class_path"), str):
        raise UsageError(f"{spec!r} does not name one of the {kind}.", _SHAPE)
    if extra := sorted(set(spec) - {"class_path", "init_args"}, key=str):
        raise UsageError(f"The spec of {spec['class_path']!r} has an unknown key {extra[0]!r}.", _SHAPE)
    found: dict[str, Any] = {"class_path": _class_path(kind, spec["class_path"])}
    if arguments := spec.get("init_args"):
        if not isinstance(arguments, Mapping):
            raise UsageError(
                f"The init_args of {spec['class_path']!r} are {arguments!r}.", "Give `argument: value` pairs."
            )
        found["init_args"] = copy.deepcopy(dict(arguments))  # jsonargparse converts lists in place
    return found


def resolved(kind: str, spec: Spec) -> dict[str, Any]:
    """A spec with every constructor argument, defaults included.

    Raises:
        UsageError: the name is unknown, or an argument does not fit the constructor.
    """
    _, parsed = _parsed(kind, spec)
    found: dict[str, Any] = {"class_path": parsed.spec.class_path}
    arguments = parsed.spec.get("init_args")
    return {**found, "init_args": plain(arguments.as_dict())} if arguments else found


def make(kind: str, spec: Any) -> Any:
    """An object from a spec; anything that is no spec is taken for the object itself.

    Raises:
        UsageError: the name is unknown, or an argument does not fit the constructor.
        CircuitKitError: the constructor failed.
    """
    if not isinstance(spec, str | Mapping):
        return spec
    parser, parsed = _parsed(kind, spec)
    try:
        return parser.instantiate(parsed).spec
    except (TypeError, ValueError, OSError) as error:  # a stranger's constructor knows no errors of ours
        raise UsageError(f"{label(kind, spec)} cannot be made: {error}.", "Check its arguments.") from error


def describe(thing: Any) -> dict[str, Any]:
    """The spec that would make an object again, as far as its attributes tell: those named like its arguments."""
    kind = type(thing)
    found: dict[str, Any] = {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
    if kind.__init__ is object.__init__:
        return found
    arguments = {
        name: value
        for name in inspect.signature(kind).parameters
        if _is_plain(value := getattr(thing, name, inspect.Parameter.empty))
    }
    return {**found, "init_args": plain(arguments)} if arguments else found


def label(kind: str, spec: Spec) -> str:
    """What to call a spec in a table: its registered name, else its class's."""
    path = spec if isinstance(spec, str) else str(spec.get("class_path"))
    for name in registry.names(kind):
        if registry.class_path(kind, name) == path:
            return name
    return path.rpartition(".")[2]


def model_spec(spec: Any) -> dict[str, str]:
    """A model's spec in full: `name`, `kv` and `dtype`, from a name or a mapping.

    Raises:
        UsageError: it is neither, or has an unknown key.
    """
    if isinstance(spec, str | Path):
        spec = {"name": str(spec)}
    shape = "Give a name, or a mapping with name and, if need be, kv and dtype."
    if not isinstance(spec, Mapping) or not all(isinstance(value, str) for value in spec.values()):
        raise UsageError(
            f"{repr(spec)[:80]} does not name a model.", f"{shape} Or wrap it: CircuitModel.from_model(it)."
        )
    if extra := sorted(set(spec) - {"name", *_MODEL}):
        raise UsageError(f"The spec of a model has an unknown key {extra[0]!r}.", shape)
    if not spec.get("name"):
        raise UsageError("The spec of a model has no name.", shape)
    if spec.get("kv", "group") not in ("group", "head"):
        raise UsageError(f"kv={spec['kv']!r} is neither 'group' nor 'head'.", "Choose one of the two.")
    return {"name": spec["name"]} | {key: spec.get(key, default) for key, default in _MODEL.items()}


def plain(value: Any) -> Any:
    """The same in lists, dicts, strings and numbers, as YAML and JSON hold it; what they cannot, as text."""
    return json.loads(json.dumps(value, default=str))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UsageError: it is missing, unreadable, not YAML, or something other than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {str(path)!r}.", "Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The file {str(path)!r} cannot be read: {error}.", "Give a YAML file.") from error
    return parse_yaml(text, f"The file {str(path)!r}")


def parse_yaml(text: str, what: str) -> dict[str, Any]:
    """A mapping from its YAML; `what` is what a message calls it.

    Raises:
        UsageError: it is not YAML, or something other than a mapping.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said = getattr(error, "problem", None) or "it cannot be parsed"
        raise UsageError(f"{what} is not YAML: {said}{where}.", "Correct it there.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{what} does not hold a mapping.", "Give `key: value` lines.")
    return found


def to_json(value: Mapping[str, Any]) -> str:
    """A mapping of plain values as JSON, which jsonargparse reads as a config too."""
    return json.dumps(value, default=str)


def to_yaml(value: Mapping[str, Any]) -> str:
    """A mapping of plain values as YAML, in its own order."""
    text: str = yaml.safe_dump(plain(value), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return text


def said_in_one_line(error: ArgumentError, known: Iterable[str] = (), command: str = "circuitkit") -> UsageError:
    """jsonargparse's error as ours.

    Args:
        error: what it raised.
        known: the option names at the top level, for an unknown one.
        command: whose `--help` says more.
    """
    text = str(error)
    keys = [key for key in re.findall(r'Parser key "([^"]+)"', text) if key != "spec"]
    what = ".".join(keys) or "The configuration"
    owner = next(iter(re.findall(r"Problem with given class_path '([^']+)'", text)[::-1]), None)
    if unknown := re.search(r"Option '([^']+)' is not accepted", text):
        return _unknown_option(unknown[1], owner, known)
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", text):
        return _unknown_option(unknown[1], None, known)
    if wrong := re.search(r"(?:Given value|Got value): (.*)", text):
        expected = re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", text, re.MULTILINE)
        wanted = " or ".join(dict.fromkeys(map(_in_words, expected)))
        of = f" of {owner.rpartition('.')[2]}" if owner else ""
        return UsageError(f"{what}{of} is {wrong[1]!r}.", f"Give {wanted or 'a value of its type'}.")
    last = [line.strip(" -") for line in text.splitlines() if line.strip()][-1]
    if "does not correspond to a subclass" in last:
        return UsageError(f"{last}.", "Give the name or class path of one; `circuitkit list` shows them.")
    if "No module named" in last or "has no attribute" in last:
        return UsageError(f"{owner!r} cannot be imported: {last}.", "Check the class path, or use a short name.")
    if "is required but not included" in last or "following arguments are required" in last:
        missing = re.search(r'[Kk]ey "([^"]+)"|required: (.+)', last)
        names = ((missing[1] or missing[2]) if missing else last).replace(", ", ", no ")
        if owner:
            class_name, option = owner.rpartition(".")[2], ".".join([*keys, names.partition(",")[0]])
            return UsageError(f"{class_name} is given no {names}.", f"Give its init_args, such as {option}.")
        return UsageError(f"No {names} is given.", f"`{command} --help` shows what it takes.")
    return UsageError(f"{what}: {last}." if keys else f"{last}.", f"`{command} --help` shows what it takes.")


def _unknown_option(name: str, owner: str | None, known: Iterable[str]) -> UsageError:
    """An option that does not exist, of a class or of the command."""
    name = name.removeprefix("--")
    if owner is None:
        top, _, _ = name.partition("=")[0].partition(".")
        return registry.unknown_name("option", top, sorted(known))
    arguments = inspect.signature(_imported(owner)).parameters
    return registry.unknown_name(f"{owner.rpartition('.')[2]} argument", name, list(arguments))


def _in_words(kind: str) -> str:
    names = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text", "NoneType": "null"}
    if match := re.fullmatch(r"<class '(\w+)'>", kind):
        return names.get(match[1], f"a {match[1]}")
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return match[1].replace(", ", " or ")
    return kind


def _parsed(kind: str, spec: Spec) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=base(kind))
    try:
        return parser, parser.parse_object({"spec": rewritten(kind, spec)})
    except ArgumentError as error:
        raise said_in_one_line(error) from error


def _class_path(kind: str, name: str) -> str:
    """The class path behind a short name or the name of a registered class; a class path as it is."""
    if "." in name:
        return name
    if name not in registry.names(kind):
        for other in registry.names(kind):
            if (path := registry.class_path(kind, other)).rpartition(".")[2] == name:
                return path
    return registry.class_path(kind, name)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | Path)
