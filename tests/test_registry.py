"""Names found through entry points."""

from importlib.metadata import EntryPoint

import pytest

from circuitkit import registry
from circuitkit.errors import CircuitKitError, UsageError


def test_what_the_package_registers_can_be_loaded():
    for kind in registry.KINDS:
        assert registry.names(kind)
        for name in registry.names(kind):
            assert registry.class_path(kind, name).startswith("circuitkit.")
            registry.load(kind, name)


def test_a_typo_lists_the_nearest_names():
    with pytest.raises(UsageError, match=r"strategy 'acdcc'.*Did you mean 'acdc'"):
        registry.load("strategies", "acdcc")


def test_a_name_taken_twice_names_both(monkeypatch):
    twice = [EntryPoint("eap", f"{package}:EAP", "circuitkit.strategies") for package in ("one", "two")]
    monkeypatch.setattr(registry, "entry_points", lambda group: twice)
    registry._entries.cache_clear()
    try:
        with pytest.raises(CircuitKitError, match=r"'eap': one:EAP .*two:EAP"):
            registry.names("strategies")
    finally:
        registry._entries.cache_clear()
