"""What is said in words of a circuit's completeness, edges, templates and control."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import circuitkit
from circuitkit.evaluation.evaluation import Evaluation, Measured, Point, compute_areas
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.minimality import EdgeEffect
from circuitkit.evaluation.sizes import SIZES
from circuitkit.report.evaluation_tables import evaluation_tables
from circuitkit.report.figures import (
    describe_completeness,
    describe_control,
    describe_minimality,
    describe_templates,
)

UNKNOWN = Figure(0.3, None, None)


def make(curves: Mapping[str, Sequence[float]], fractions: Sequence[float] = SIZES, prompts: int = 8) -> Evaluation:
    """An evaluation in which faithfulness is 1 - KL, the same on every prompt."""
    points, rows = [], []
    for ranking, heights in curves.items():
        for fraction, height in zip(fractions, heights, strict=False):
            figure = Figure(height, height, height)
            measured = {"kl": Measured(Figure(1 - height, 1 - height, 1 - height), figure)}
            points.append(Point(ranking, fraction, int(1000 * fraction), int(1000 * fraction), measured))  # type: ignore[arg-type]
            rows.append(np.full(prompts, 1 - height))
    values = np.stack([*rows, np.zeros(prompts), np.ones(prompts)])
    ends = ({"kl": Figure(value, value, value)} for value in (0.0, 1.0))
    areas = compute_areas(points, values)
    return Evaluation("test", prompts, points, *ends, areas, 1e-7, 0.0, values={"kl": values})


def with_complement(figure: Figure) -> Evaluation:
    point = Point("complement", 0.9, 90, 90, {"kl": Measured(Figure(0.5, 0.5, 0.5), figure)})
    return replace(make({}), points=[point])


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (Figure(0.02, -0.1, 0.15), "0.02 [-0.10, 0.15]: near 0, so the circuit is complete"),
        (Figure(0.1, -0.1, 0.25), "8 prompts do not settle whether the circuit is complete"),
        (Figure(0.5, 0.21, 0.8), "far above 0, so the circuit is not complete"),
        (Figure(-0.5, -0.8, -0.21), "below 0, so without the circuit's edges the others work against the task"),
        (UNKNOWN, "0.30."),
        (Figure(None, None, None), "undefined."),
    ],
)
def test_a_complement_tells_completeness(figure: Figure, said: str) -> None:
    one = with_complement(figure)
    assert said in describe_completeness(one)
    turned = replace(one, full=one.ablated, ablated=one.full)
    assert "complete" not in describe_completeness(turned).removeprefix("All edges except the circuit's")
    assert describe_completeness(make({})) == ""


def effects(*figures: tuple[Any, Any, Any]) -> Evaluation:
    return replace(make({}), minimality=[EdgeEffect(f"edge {i}", Figure(*one)) for i, one in enumerate(figures)])


HELPS, HURTS, NOTHING = (0.3, 0.1, 0.5), (-0.02, -0.03, -0.01), (0.01, -0.1, 0.1)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            [HELPS],
            "of 1 sampled edge, 1 (100%) change faithfulness when removed alone, by 0.3 to 0.3 (1 help, 0 hurt).",
        ),
        (
            [HELPS, HELPS, HURTS, NOTHING],
            "of 4 sampled edges, 3 (75%) change faithfulness when removed alone, by 0.02 to "
            "0.3 (2 help, 1 hurt); 1 may be useless, as the interval contains 0.",
        ),
        ([NOTHING, (0, 0, 0)], "of 2 sampled edges, 0 (0%) change faithfulness when removed alone; 2 may be useless"),
        ([(1e-9, 1e-9, 1e-9), (-1e-9, -1e-9, -1e-9)], "0 (0%) change faithfulness"),  # less than rounding
        ([HELPS, (0.3, None, None)], "the effects of 2 sampled edges have no intervals"),
    ],
)
def test_edges_are_counted_by_their_effects(figures: list[tuple[Any, Any, Any]], said: str) -> None:
    assert said in describe_minimality(effects(*figures))


def test_without_a_sample_nothing_is_said_of_edges() -> None:
    assert describe_minimality(effects()) == ""


def with_templates(heights: Mapping[str, float], ranking: str = "own") -> Evaluation:
    """Two prompts of each template, of this faithfulness."""
    one = make({ranking: [0.5]}, [0.1], 2 * len(heights))
    rows = one.values["kl"].copy()
    rows[0] = np.repeat([1 - height for height in heights.values()], 2)
    return replace(one, templates=tuple(np.repeat(list(heights), 2).tolist()), values={"kl": rows})


def test_the_worst_templates_and_the_best_are_named() -> None:
    many = with_templates({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.3, "e": 1.2})
    assert describe_templates(many) == (
        "By template (its own edges, the 3 worst and the best of 5): b: 0.10 (2 prompts); d: 0.30 (2 prompts); "
        "c: 0.50 (2 prompts); e: 1.20 (2 prompts)."
    )
    few = with_templates({"a": 0.9, "b": 0.1}, "absolute")
    assert describe_templates(few) == (
        "By template (the top 100 edges, absolute): b: 0.10 (2 prompts); a: 0.90 (2 prompts)."
    )
    assert describe_templates(with_templates({"a": 0.9})) == describe_templates(replace(few, templates=())) == ""
    assert describe_templates(with_templates({"a": 0.9, "b": 0.1}, "random")) == ""


NONE = [0.0] * 9 + [1.0]
GOOD = [0.0] * 6 + [0.3, 0.6, 0.9, 1.0]


@pytest.mark.parametrize(
    ("curves", "said", "unsaid"),
    [
        (
            {"signed": NONE, "absolute": GOOD, "random": [*NONE[:8], 0.1, 1.0]},
            [
                "CPR (0.29) is above that of signed (0.25)",
                "at 50%, where random edges have 0.10, and signed 0.00.",
                "By |score| it is 0.90",
                "wrong sign",
            ],
            "harmful",
        ),
        (
            {"signed": GOOD, "absolute": GOOD, "random": [*NONE[:8], 1.9, 1.0]},
            ["at 50%, where random edges have 1.90", "harmful edges"],
            "wrong sign",
        ),
        (
            {"signed": [*NONE[:8], 0.1, 1.0], "random": [*NONE[:7], 0.5, 0.0, 1.0]},
            ["at 20%, where random edges have 0.50"],
            "sign.",
        ),
        ({"absolute": NONE, "random": [*NONE[:8], 0.1, 1.0]}, ["above that of absolute"], "wrong sign"),
    ],
)
def test_a_control_above_a_ranking_is_explained(curves: dict[str, list[float]], said: list[str], unsaid: str) -> None:
    one = make(curves)
    text = describe_control(one)
    assert all(part in text for part in said), text
    assert unsaid not in text
    console = Console(width=100_000)
    with console.capture() as shown:
        console.print(evaluation_tables([one], "a circuit"))
    assert text in shown.get()


@pytest.mark.parametrize(
    "curves", [{"signed": GOOD, "random": NONE}, {"signed": NONE, "random": [*NONE[:8], 0.001, 1.0]}, {"signed": GOOD}]
)
def test_a_control_below_needs_no_explanation(curves: dict[str, list[float]]) -> None:
    assert describe_control(make(curves)) == ""


def test_the_weights_that_are_named_are_those_of_the_sizes() -> None:
    """Of CPR: 60% at 20% and 50% of the edges, a quarter at the full model."""
    areas = {}
    for size in (0.2, 0.5, 1.0):
        found = make({"signed": [float(one == size) for one in SIZES]}).areas["signed"].cpr.value
        assert found is not None
        areas[size] = found
    assert areas[0.2] + areas[0.5] == pytest.approx(0.6)
    assert areas[1.0] == pytest.approx(0.25)


def test_eaps_signed_ranking_on_the_toy_model_is_below_random() -> None:
    """A case that happens: edges of negative first-order score are needed, as the ranking by |score| shows."""
    found = circuitkit.discover("toy", "ioi", "eap", objective="probability_difference", examples=16, splits=[])
    evaluation = circuitkit.evaluate("toy", found.circuit, "ioi", objective="probability_difference", examples=16)
    assert evaluation.random_cpr is not None
    assert evaluation.cpr is not None
    assert evaluation.areas["absolute"].cpr.value is not None
    assert evaluation.cpr < evaluation.random_cpr < evaluation.areas["absolute"].cpr.value
    text = describe_control(evaluation)
    assert "at 50%" in text
    assert "edges of negative score, which come last by score, are needed" in text
