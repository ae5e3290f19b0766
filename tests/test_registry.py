"""Names found through entry points."""

from importlib.metadata import EntryPoint

import pytest

from circuitkit import registry
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.objective import LogitDifference


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


def test_make_takes_names_class_paths_and_objects():
    ready = LogitDifference()
    assert registry.make("objectives", ready) is ready
    assert isinstance(registry.make("objectives", "logit_difference"), LogitDifference)
    assert isinstance(registry.make("objectives", "circuitkit.objective.LogitDifference"), LogitDifference)
    assert registry.make("ablations", "mean", positions="pooled").positions == "pooled"


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("mean", {"position": "pooled"}, "position.*It takes: positions"),
        (LogitDifference(), {"x": 1}, "ready-made"),
        ("no.such.module.Class", {}, "cannot be imported"),
        ("circuitkit.objective.Nothing", {}, "cannot be imported"),
    ],
)
def test_make_refuses_what_does_not_fit(spec, arguments, message):
    with pytest.raises(UsageError, match=message):
        registry.make("objectives" if spec != "mean" else "ablations", spec, **arguments)
