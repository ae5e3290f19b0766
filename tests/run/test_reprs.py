"""What a notebook shows of the objects that users hold."""

import pytest

import circuitkit
from circuitkit.config import registry
from circuitkit.strategies import ACDC, EAP, EdgePruning


@pytest.mark.parametrize(
    ("strategy", "shown"),
    [
        (EAP(), "EAP()"),
        (ACDC(), "ACDC()"),
        (ACDC(threshold=(0.1, 1), absolute=True), "ACDC(threshold=[0.1, 1], absolute=True)"),
        (EdgePruning(trainer={"max_steps": 3}), "EdgePruning(trainer={'max_steps': 3})"),
    ],
)
def test_a_strategy_is_shown_as_its_constructor(strategy: circuitkit.DiscoveryStrategy, shown: str) -> None:
    assert repr(strategy) == shown
    assert repr(eval(shown, {"ACDC": ACDC, "EAP": EAP, "EdgePruning": EdgePruning})) == shown


def test_every_strategy_has_a_short_repr() -> None:
    for name in registry.names("strategies"):
        if registry.class_path("strategies", name).startswith("circuitkit."):
            arguments = {"strategy": "eap"} if name == "stable" else {}
            assert len(repr(registry.load("strategies", name)(**arguments))) < 60


def test_a_result_and_its_evaluation_are_shown_on_one_line() -> None:
    result = circuitkit.discover("toy", "ioi", "acdc", strategy_args={"threshold": [0.1, 1.0]}, examples=4)
    one, other = (len(circuit) for circuit in result.circuits)
    assert repr(result) == f"Result(acdc on ioi, in toy: {one} of 262 edges, {other} of 262 edges)"
    (own,) = result.evaluations["test"][0].curve("own")
    assert repr(result.evaluations["test"][0]) == f"Evaluation(1 size, 4 prompts, test, own {own.faithfulness:.3f})"
    whole = circuitkit.evaluate("toy", result.circuit, "ioi", examples=4)
    assert repr(whole).startswith(f"Evaluation(10 sizes, 4 prompts, test, CPR {whole.cpr:.3f}, CMD ")
