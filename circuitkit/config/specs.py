"""Specs: how a configuration names an object.

A spec is a short name (`eap`), a class name (`EAP`), a class path (`circuitkit.strategies.eap.EAP`), or a mapping with
one of these as `class_path` and constructor arguments as `init_args`; for a task also the path of a prompt file.
jsonargparse checks the arguments against the constructor's types. It accepts class paths only, so `rewrite` replaces
names first. An argument may itself be a spec, if its type includes the base class of a kind: a strategy that another
one starts from.
"""

import copy
import inspect
import os
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace

from circuitkit.config import registry
from circuitkit.config.parse_errors import to_usage_error
from circuitkit.config.trust import holds_data, may_name_code, refuse, trusts_registered_only
from circuitkit.errors import UsageError, quote
from circuitkit.storage.text import to_plain

Spec = str | Mapping[str, Any]

_BASES = {
    "strategies": "circuitkit.strategies.base.DiscoveryStrategy",
    "tasks": "circuitkit.tasks.base.Task",
    "precision": "circuitkit.precision.base.PrecisionPolicy",
    "objectives": "circuitkit.data.objectives.Objective",
    "ablations": "circuitkit.engine.ablation.Ablation",
}
_MODEL_DEFAULTS = {"kv": "group", "dtype": "float32"}
_UNKNOWN = inspect.Parameter.empty
_SHAPE = "Give a name, or a mapping with class_path and, if needed, init_args."


def check_trusted(value: Any) -> None:
    """Check plain data of any form before something imports what it names.

    Raises:
        UsageError: a mapping in it has a `class_path` that is not registered, or a key hides one.
    """
    if isinstance(value, list | tuple):
        for one in value:
            check_trusted(one)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            parts = str(key).split(".")  # jsonargparse takes `a.b` as `b` of `a`
            if len(parts) > 1 and {"class_path", "init_args"} & set(parts):
                raise UsageError(f"The key {quote(key)} could name code to import.", "Nest it: `key: {key: value}`.")
            if key == "class_path" and not (isinstance(one, str) and any(_is_registered(kind, one) for kind in _BASES)):
                raise _refuse_class(one)
            check_trusted(one)


def base(kind: str) -> Any:
    """Import the base class of a kind (`strategies`, `tasks`, ...)."""
    return registry.import_object(_BASES[kind])


def rewrite(kind: str, spec: Any) -> dict[str, Any]:
    """Rewrite a spec as a mapping with a class path, the form that jsonargparse parses, also where arguments are specs.

    Raises:
        UsageError: the name is unknown, or the spec is neither a name nor such a mapping.
    """
    found = restrict(kind, spec) if trusts_registered_only() else _rewrite_names(kind, spec)
    _resolve_arguments(found)
    return found


def rewrite_argument(kind: str, value: Any) -> Any:
    """Complete the value of an argument where it is a mapping that names an object, or a list of such.

    Raises:
        UsageError: a name is unknown, or an argument does not fit.
    """
    if isinstance(value, list):
        return [rewrite_argument(kind, one) for one in value]
    return resolve(kind, value) if isinstance(value, Mapping) and "class_path" in value else value


def resolve(kind: str, spec: Spec) -> dict[str, Any]:
    """Complete a spec with every constructor argument, defaults included.

    Raises:
        UsageError: the name is unknown, or an argument does not fit the constructor.
    """
    _, parsed = _parse(kind, spec)
    # Packages re-export classes: the defining path makes the spec the same for all import paths
    found: dict[str, Any] = {"class_path": _defining_path(registry.import_object(parsed.spec.class_path))}
    arguments = parsed.spec.get("init_args")
    return {**found, "init_args": to_plain(arguments.as_dict())} if arguments else found


def make(kind: str, spec: Any) -> Any:
    """Make an object from a spec; return anything else as it is.

    Raises:
        UsageError: the name is unknown, or an argument does not fit the constructor.
        CircuitKitError: the constructor failed.
    """
    if not isinstance(spec, str | Mapping):
        return spec
    parser, parsed = _parse(kind, spec)
    try:
        return parser.instantiate(parsed).spec
    except (TypeError, ValueError, OSError) as error:  # raised by a constructor outside this package
        raise UsageError(f"{label(kind, spec)} cannot be made: {error}.", "Check its arguments.") from error


def check_object(kind: str, key: str, thing: Any) -> None:
    """Check that what `make` has returned is an object of a kind.

    Args:
        kind: the kind.
        key: what the message calls it.
        thing: the object.

    Raises:
        UsageError: it is not.
    """
    wanted = base(kind)
    if not isinstance(thing, wanted):
        what = f"the class {thing.__name__}" if isinstance(thing, type) else quote(thing)
        raise UsageError(f"The {key} is {what}.", f"Give a name, a class path, or an instance of {wanted.__name__}.")


def describe(thing: Any) -> dict[str, Any]:
    """Return the spec of an object, reading each constructor argument from the attribute of the same name."""
    kind = type(thing)
    found: dict[str, Any] = {"class_path": _defining_path(kind)}
    if kind.__init__ is object.__init__:
        return found
    given = {name: to_data(getattr(thing, name, _UNKNOWN)) for name in inspect.signature(kind).parameters}
    arguments = {name: value for name, value in given.items() if value is not _UNKNOWN}
    return {**found, "init_args": to_plain(arguments)} if arguments else found


def restrict(kind: str, spec: Any) -> dict[str, Any]:
    """Rewrite a spec from an unknown source, so that making it imports a registered class and nothing else.

    Raises:
        UsageError: no installed package registers the class, or an argument could name code to import.
    """
    found = _rewrite_names(kind, spec)
    name = _registered_name(kind, found["class_path"])
    if name is None:
        raise _refuse_class(found["class_path"])
    found["class_path"] = registry.class_path(kind, name)
    for argument, value in found.get("init_args", {}).items():
        found["init_args"][argument] = restrict_argument(kind, name, argument, value)
    return found


def restrict_argument(kind: str, name: str, argument: str, value: Any) -> Any:
    """Rewrite the value of an argument from an unknown source, so that parsing it imports registered classes only.

    Args:
        kind: that of the object.
        name: its registered name.
        argument: the name of the argument.
        value: plain data.

    Raises:
        UsageError: there is no such argument, or it could name code to import.
    """
    found = registry.import_object(registry.class_path(kind, name))
    parameters = inspect.signature(found).parameters
    takes_others = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if argument not in parameters and not (takes_others and str(argument).isidentifier()):
        raise registry.unknown_name(f"{found.__name__} argument", argument, list(parameters))
    if (inner := _kind_of(parameters, argument)) is not None:
        return _nested(inner, value, restrict, _is_surely_path)
    # jsonargparse imports what a text or mapping names, if the argument is a class or a function
    is_data = argument in parameters and holds_data(parameters[argument].annotation)
    if may_name_code(value) and not is_data:
        raise refuse(f"The argument {argument!r} of {name!r} could name code to import.")
    return value


def to_call(thing: Any) -> str:
    """Write an object as the call of its constructor, without arguments that have their default."""
    parameters = inspect.signature(type(thing)).parameters
    given = describe(thing).get("init_args", {})
    changed = {name: value for name, value in given.items() if value != to_plain(parameters[name].default)}
    nested = {name: value for name in changed if not _is_plain(value := getattr(thing, name))}  # shown as a call too
    return f"{type(thing).__name__}({', '.join(f'{name}={value!r}' for name, value in {**changed, **nested}.items())})"


def label(kind: str, spec: Spec) -> str:
    """Return the name of a spec in tables: its registered name or, without one, its class name."""
    path = registry.class_path("tasks", "prompt_file") if _is_prompt_file(kind, spec) else spec
    path = path if isinstance(path, str) else str(path.get("class_path"))
    return _registered_name(kind, path) or path.rpartition(".")[2]


def model_spec(spec: Any, **defaults: str) -> dict[str, str]:
    """Complete a model's spec: a name, or a mapping with `name`, `kv`, `dtype` and `positions`.

    Args:
        spec: the spec.
        defaults: instead of the usual ones.

    Returns:
        The arguments of `CircuitModel.from_pretrained`, `positions` only if it is `"writer"`.

    Raises:
        UsageError: it is neither, or has an unknown key.
    """
    if isinstance(spec, str | Path):
        spec = {"name": str(spec)}
    shape = "Give a name, or a mapping with name and, if needed, kv, dtype and positions."
    if not isinstance(spec, Mapping) or not all(isinstance(value, str) for value in spec.values()):
        raise UsageError(
            f"{repr(spec)[:80]} does not name a model.", f"{shape} Or wrap it: CircuitModel.from_model(it)."
        )
    if extra := sorted(set(spec) - {"name", "positions", *_MODEL_DEFAULTS}):
        raise UsageError(f"The spec of a model has an unknown key {extra[0]!r}.", shape)
    if not spec.get("name"):
        raise UsageError("The spec of a model has no name.", shape)
    if spec.get("kv", "group") not in ("group", "head"):
        raise UsageError(f"kv={spec['kv']!r} is neither 'group' nor 'head'.", "Choose one of the two.")
    found = {"name": spec["name"], **_MODEL_DEFAULTS, **defaults, **spec}
    if found.get("positions", "writer") not in ("constant", "writer"):
        raise UsageError(f"positions={found['positions']!r} is unknown.", "Choose 'constant' or 'writer'.")
    if found.get("positions") == "constant":  # as in the configs of versions without this choice
        del found["positions"]
    return found


def describe_model(named: Mapping[str, str]) -> dict[str, str]:
    """Return a complete spec of a model as entries of a run's config, where the name is that of the key `model`."""
    return {"model" if key == "name" else key: value for key, value in named.items()}


def described_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of the model of a run's config, the inverse of `describe_model`."""
    return {key: config[key] for key in (*_MODEL_DEFAULTS, "positions") if key in config} | {"name": config["model"]}


def _refuse_class(path: Any) -> UsageError:
    return refuse(f"The class {quote(path)} is one that no installed package registers.")


def _is_registered(kind: str, path: str) -> bool:
    try:
        return _registered_name(kind, _class_path(kind, path)) is not None
    except UsageError:  # no class path, and no name of this kind
        return False


def _rewrite_names(kind: str, spec: Any) -> dict[str, Any]:
    spec = _expand(kind, spec)
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


def _expand(kind: str, spec: Any) -> Any:
    """Write a name, a class path or a file of prompts as a mapping."""
    if _is_prompt_file(kind, spec):
        return {"class_path": "prompt_file", "init_args": {"path": spec}}
    return {"class_path": spec} if isinstance(spec, str) else spec


def _is_prompt_file(kind: str, spec: Any) -> bool:
    """Tell whether a task is given as the path of a file."""
    if kind != "tasks" or not isinstance(spec, str):
        return False
    return Path(spec).suffix.lower() in (".csv", ".jsonl", ".json") or Path(spec).name != spec


def _parse(kind: str, spec: Spec) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=base(kind))
    try:
        return parser, parser.parse_object({"spec": rewrite(kind, spec)})
    except ArgumentError as error:
        raise to_usage_error(error) from error


def _resolve_arguments(spec: dict[str, Any]) -> None:
    """Complete the arguments of a rewritten spec that are specs themselves, in place."""
    arguments = spec.get("init_args", {})
    if not any(isinstance(value, str | Mapping | list | tuple) for value in arguments.values()):
        return
    try:
        parameters = inspect.signature(registry.import_object(spec["class_path"])).parameters
    except (ImportError, AttributeError, TypeError, ValueError):  # jsonargparse says what is wrong
        return
    for name, value in arguments.items():
        if (kind := _kind_of(parameters, name)) is not None:
            arguments[name] = _nested(kind, value, resolve)


def _kind_of(parameters: Mapping[str, inspect.Parameter], name: str) -> str | None:
    """Return the kind whose base class is in the type of an argument, so that it takes specs; None: it takes none."""
    found = {_defining_path(part) for part in _parts(parameters[name].annotation)} if name in parameters else set()
    return next((kind for kind, path in _BASES.items() if path in found), None)


def _parts(annotation: Any) -> list[type]:
    """List the classes in a type."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts(inner)]


def is_path(kind: str, text: str) -> bool:
    """Tell whether a text that may name an object or a folder is the path of a folder; names come first."""
    return text not in registry.names(kind) and (Path(text).name != text or os.path.isdir(text))  # noqa: PTH112  no error for long names


def _is_surely_path(kind: str, text: str) -> bool:
    """Tell whether a text from an unknown source is a path, and nothing that jsonargparse would take for a class."""
    try:
        is_text = isinstance(yaml.safe_load(text), str)
    except yaml.YAMLError:
        is_text = False
    return is_text and not all(part.isidentifier() for part in text.split(".")) and is_path(kind, text)


def _nested(
    kind: str, value: Any, change: Callable[[str, Any], Any], test_path: Callable[[str, str], bool] = is_path
) -> Any:
    """Change a value, or those in a list, where it is a spec; a path is none."""
    if isinstance(value, list | tuple):
        return [_nested(kind, one, change, test_path) for one in value]
    is_spec = isinstance(value, Mapping) or (isinstance(value, str) and not test_path(kind, value))
    return change(kind, value) if is_spec else value


def to_data(value: Any) -> Any:
    """Return an argument as plain data: of an object, its spec, or nothing (`inspect.Parameter.empty`)."""
    if isinstance(value, list | tuple) and not _is_plain(value):
        found = [to_data(one) for one in value]
        return _UNKNOWN if _UNKNOWN in found else found
    if _is_plain(value):
        return value
    if hasattr(value, "to_spec"):
        return value.to_spec()
    return describe(value) if isinstance(value, tuple(map(base, _BASES))) else _UNKNOWN


def _registered_name(kind: str, path: str) -> str | None:
    """Return the registered name of a class path, which may be another import path of the same class."""
    wanted = path.partition(".")[0], path.rpartition(".")[2]
    for name in registry.names(kind):
        registered = registry.class_path(kind, name)
        if (registered.partition(".")[0], registered.rpartition(".")[2]) == wanted:
            return name
    return None


def _defining_path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _class_path(kind: str, name: str) -> str:
    """Return the class path of a short name or of a registered class's name; return a class path as it is."""
    name = registry.current_name(kind, name)
    if "." in name:
        registry.refuse_file(name, kind)
        if not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"{quote(name)} is no class path.", "Give a name, or a path such as my_package.MyClass.")
        return name
    if name not in registry.names(kind) and (found := registry.names_of_class(kind, name)):
        name = found[0]
    return registry.class_path(kind, name)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | Path)
