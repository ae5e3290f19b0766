"""What holds for every room: it says what it is for, and exports its names without importing torch."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import circuitkit
from circuitkit.config import registry, specs

ROOMS = [module.name for module in pkgutil.walk_packages(circuitkit.__path__, "circuitkit.") if module.ispkg]
REGISTERED = [
    (kind, name)
    for kind in registry.KINDS
    for name in registry.names(kind)
    if registry.class_path(kind, name).startswith("circuitkit.")  # other packages register classes of their own
]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_docstring_and_its_exports_exist(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name)


def test_importing_all_rooms_is_quick() -> None:
    code = f"import sys, {', '.join(ROOMS)}; assert not {{'torch', 'transformers', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_a_registered_class_is_exported_by_its_room(kind: str, name: str) -> None:
    module, _, class_name = registry.class_path(kind, name).rpartition(".")
    room = module.rpartition(".")[0]
    assert getattr(importlib.import_module(room), class_name) is registry.load(kind, name)


def test_a_class_has_one_spec_wherever_it_is_imported_from() -> None:
    resolved = specs.resolve("strategies", "acdc")
    assert specs.resolve("strategies", "circuitkit.strategies.ACDC") == resolved
    assert specs.describe(circuitkit.strategies.ACDC()) == resolved
    assert specs.label("strategies", "circuitkit.strategies.ACDC") == specs.label("strategies", resolved) == "acdc"
