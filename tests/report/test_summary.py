"""What a result prints."""

import numpy as np
import pytest

from circuitkit.evaluation.evaluation import Evaluation, Measured, Point
from circuitkit.evaluation.intervals import Figure
from circuitkit.report.figures import format_interval, verdict

NOTHING = Figure(None, None, None)


def point(ranking: str, figure: Figure) -> Point:
    return Point(ranking, 0.1, 10, 10, {"kl": Measured(Figure(0.0, 0.0, 0.0), figure)})


def evaluation(full: float, ablated: float) -> Evaluation:
    ends = ({"kl": Figure(value, value, value)} for value in (full, ablated))
    return Evaluation("test", 8, [], *ends, {}, 0.0, 0.0, values={"kl": np.zeros((2, 8))})


@pytest.mark.parametrize(
    ("figure", "random", "said"),
    [
        (Figure(0.95, 0.9, 1.0), 0.0, "faithful"),
        (Figure(0.95, 0.7, 1.0), 0.0, "between partial and faithful: 8 prompts do not settle it"),
        (Figure(0.95, -0.1, 2.0), 0.0, "between worse than with every edge removed and overshooting"),
        (Figure(0.95, None, None), 0.0, "undecided: 8 prompts"),
        (Figure(0.6, 0.55, 0.7), 0.0, "partial"),
        (Figure(0.6, 0.55, 0.7), 0.58, "perhaps no better than chance"),
        (Figure(0.2, 0.1, 0.3), 0.0, "poor"),
        (Figure(0.2, 0.1, 0.3), 0.3, "no better than chance"),
        (Figure(-0.2, -0.3, -0.1), -0.5, "worse than"),
        (Figure(1.5, 1.3, 1.6), 0.0, "overshooting"),
        (Figure(1.2, 0.8, 1.2), 0.0, "faithful"),
        (NOTHING, None, "not defined"),
    ],
)
def test_faithfulness_is_described_in_words(figure: Figure, random: float | None, said: str) -> None:
    own, control = point("own", figure), point("random", Figure(random, random, random))
    assert verdict(evaluation(0.0, 1.0), own, control).startswith(said)
    assert verdict(evaluation(1.0, 0.0), own, control).startswith(said if figure is NOTHING else "not meaningful")


def test_without_a_control_nothing_is_said_of_chance() -> None:
    assert verdict(evaluation(0.0, 1.0), point("own", Figure(0.2, 0.1, 0.3)), None).startswith("poor")


@pytest.mark.parametrize(
    ("figure", "options", "said"),
    [
        (Figure(0.854, 0.8, 0.9), {}, "0.85 [0.80, 0.90]"),
        (Figure(-0.001, -0.004, 0.001), {}, "0.00 [0.00, 0.00]"),
        (Figure(0.5, None, None), {}, "0.50"),
        (Figure(0.5, 0.25, 1.0), {"percent": True}, "50% [25%, 100%]"),
        (Figure(-5.0, -6.0, -4.5), {"negate": True}, "5.00 [4.50, 6.00]"),
        (NOTHING, {}, "undefined"),
        (None, {}, "undefined"),
    ],
)
def test_figures_are_shown_with_their_intervals(figure: Figure | None, options: dict[str, bool], said: str) -> None:
    assert format_interval(figure, **options) == said
