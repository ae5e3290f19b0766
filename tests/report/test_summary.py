"""What a result prints."""

import pytest

from circuitkit.evaluation.measures import Evaluation, Point
from circuitkit.report.summary import verdict


@pytest.mark.parametrize(
    ("value", "random", "said"),
    [
        (0.95, 0.0, "faithful"),
        (0.6, 0.0, "partial"),
        (0.2, 0.0, "poor"),
        (0.2, 0.3, "no better than chance"),
        (-0.2, -0.5, "worse than"),
        (1.5, 0.0, "overshooting"),
        (None, None, "not defined"),
    ],
)
def test_faithfulness_is_described_in_words(value: float | None, random: float | None, said: str) -> None:
    own, control = (Point("own", 0.1, 10, 10, 0.0, figure) for figure in (value, random))
    evaluation = Evaluation([own], -1.0, 0.0, None, None, None, None, 0.0, 8, "test")
    assert verdict(evaluation, own, control).startswith(said)
    upside_down = Evaluation([own], 1.0, 0.0, None, None, None, None, 0.0, 8, "test")
    assert verdict(upside_down, own, control).startswith(said if value is None else "not meaningful")
