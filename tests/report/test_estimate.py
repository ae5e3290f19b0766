"""A number with its interval, which computes as a number."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from circuitkit.evaluation.intervals import Figure
from circuitkit.report.estimate import Estimate


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (Figure(0.854, 0.8, 0.9), "0.85 [0.80, 0.90]"),
        (Figure(-0.001, None, None), "0.00"),
        (Figure(None, None, None), "undefined"),
    ],
)
def test_it_prints_with_its_interval(figure: Figure, shown: str) -> None:
    estimate = Estimate(figure)
    assert [str(estimate), repr(estimate), f"{estimate}", repr([estimate])] == [shown, shown, shown, f"[{shown}]"]
    for again in (copy.copy(estimate), copy.deepcopy(estimate), pickle.loads(pickle.dumps(estimate))):
        assert (type(again), str(again), again.low, again.high) == (Estimate, shown, figure.low, figure.high)


def test_it_computes_as_a_number() -> None:
    estimate = Estimate(Figure(0.75, 0.5, 1.0))
    assert estimate == 0.75
    assert 0.7 < estimate < 0.8
    assert estimate + 1 == 1.75
    assert f"{estimate:.3f}" == "0.750"
    assert json.dumps(estimate) == "0.75"
    assert np.array([estimate]).dtype == np.float64
    assert hash(estimate) == hash(0.75)
    undefined = Estimate(Figure(None, None, None))
    assert math.isnan(undefined)
    assert not undefined > 0
