"""The picture of a comparison: which curves, at which places, and what labels cannot do to it."""

import io
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from circuitkit.report.comparison_picture import comparison_picture, draw_comparison
from circuitkit.report.comparison_tables import CONTROL

SIZES = (0.1, 0.5, 1.0)


def rows_of(strategy: str, values: list[float], precision: str = "full", **more: Any) -> list[dict[str, Any]]:
    row = {"model": "toy", "task": "ioi", "objective": "kl", "strategy": strategy, "precision": precision, "seed": 0}
    row |= {"operating_point": "all edges", "prompts_test_hash": "a", "error": "", "ranking": "absolute"}
    found = []
    for size, value in zip(SIZES, values, strict=True):
        figure = {
            "faithfulness_test": value,
            "faithfulness_test_low": value - 0.1,
            "faithfulness_test_high": value + 0.1,
        }
        found.append({**row, **figure, "fraction": size, "edges_asked": round(size * 100), **more})
    return found


def curves(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for line in figure.axes[panel].get_lines():
        if str(line.get_label()).startswith(" "):
            x, y = line.get_data()
            found[str(line.get_label()).strip()] = ([*map(float, x)], [*map(float, y)])
    return found


def test_a_curve_is_the_mean_over_seeds_at_each_size() -> None:
    rows = rows_of("eap", [0.2, 0.6, 1.0]) + rows_of("eap", [0.4, 0.8, 1.0], seed=1)
    rows += rows_of(CONTROL, [0.0, 0.1, 1.0])
    figure = draw_comparison(rows)
    found = curves(figure)
    assert list(found) == ["eap (full)", CONTROL]
    assert found["eap (full)"][0] == [10, 50, 100]
    assert found["eap (full)"][1] == pytest.approx([0.3, 0.7, 1.0])
    assert figure.axes[0].get_title() == "ioi in toy, kl"
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [" eap (full)", f" {CONTROL}"]


def test_a_dot_is_the_circuit_that_a_method_chose_and_later_circuits_are_left_out() -> None:
    own = rows_of("acdc", [0.9, 0.9, 0.9], ranking="own", edges_asked=30)[:1]
    rows = rows_of("acdc", [0.2, 0.6, 1.0]) + own + rows_of("acdc", [0.1, 0.1, 0.1], operating_point="second")
    (axes,) = draw_comparison(rows).axes
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [(float(x), float(y)) for x, y in dots[0].get_xydata()] == [(30.0, 0.9)]
    assert curves(draw_comparison(rows))["acdc (full)"][1] == [0.2, 0.6, 1.0]


def test_of_too_many_methods_the_best_of_each_strategy_are_drawn() -> None:
    rows = []
    for number in range(4):
        rows += rows_of(f"s{number}", [0.1 * number, 0.5, 1.0])
        rows += rows_of(f"s{number}", [0.1 * number + 0.05, 0.5, 1.0], "int8")
    rows += rows_of(CONTROL, [0.0, 0.0, 1.0])
    figure = draw_comparison(rows)
    assert list(curves(figure)) == ["s3 (int8)", "s2 (int8)", "s1 (int8)", "s0 (int8)", CONTROL]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "4 of 8: the best of each strategy"
    colors = {line.get_color() for line in figure.axes[0].get_lines() if str(line.get_label()).startswith(" ")}
    assert len(colors) == 5


def test_far_values_are_cut_off_and_the_axis_says_so() -> None:
    (near,) = draw_comparison(rows_of("eap", [0.2, 1.3, 1.0])).axes
    (far,) = draw_comparison(rows_of("eap", [-7.0, 5.0, 1.0])).axes
    assert "cut off" not in near.get_ylabel()
    assert far.get_ylabel() == "faithfulness, held-out (cut off at 2)"
    assert far.get_ylim() == (-0.5, 2.0)


def test_objectives_have_panels_of_their_own_and_failed_cells_have_none() -> None:
    rows = [row for number in range(9) for row in rows_of("eap", [0.2, 0.6, 1.0], objective=f"o{number}")]
    rows.append({**rows[0], "error": "No luck.", "objective": "failed", "faithfulness_test": None})
    figure = draw_comparison(rows)
    assert [axes.get_title() for axes in figure.axes] == [f"ioi in toy, o{number}" for number in range(4)]
    assert figure.get_supxlabel() == "4 of 9 combinations of task, model and objective"
    assert draw_comparison(rows[:3]).get_supxlabel() == ""


def test_a_comparison_without_defined_faithfulness_has_no_curves() -> None:
    rows = rows_of("eap", [0.2, 0.6, 1.0], faithfulness_test=None)
    assert curves(draw_comparison(rows)) == {}
    assert comparison_picture(rows).startswith(b"\x89PNG")


def test_labels_are_text_and_the_same_rows_give_the_same_picture() -> None:
    label = "_$\\frac{1}{0}$ \x00 \U0001f600 <b> 中"
    rows = rows_of(label, [0.2, 0.6, 1.0], objective="$x$", task="$$", faithfulness_test_low=None)
    data = comparison_picture(rows)
    assert data == comparison_picture(rows)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("PNG", (1200, 680))
