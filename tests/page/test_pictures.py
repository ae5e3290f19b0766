"""Pictures show the figures of the rows, are the same every time, and keep labels as text."""

import io
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.page_rows import SIZES, make_content, make_curve, make_row

from circuitkit.page.charts import make_panels_of
from circuitkit.page.pictures import NARROW, WIDE, Picture, draw_costs, draw_curves, draw_pictures

RISING = [0.0, 0.1, 0.5, 0.9, 1.0]
NAMES = ["eap", "<b>eap</b> & co", "_eap", "$\\frac{1}{", "line\nbreak", "\x1b[31m", "圆", "e" * 200]


def rows_of(strategy: str = "eap") -> list[dict[str, Any]]:
    own = make_curve(strategy, [0.6], ranking="own", operating_point="threshold 0.1")
    return [*make_curve(strategy, RISING), *own, *make_curve("random control", [0.0] * 4 + [1.0])]


def lines_of(figure: Figure) -> list[list[dict[float, float]]]:
    """Return the points of every line, per plot."""
    return [
        [dict(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)) for line in axes.lines]
        for axes in figure.axes
    ]


def test_curves_show_the_rows() -> None:
    (panel,) = make_panels_of(make_content(rows_of()))
    test, train = lines_of(draw_curves(panel, WIDE))
    assert dict(zip(SIZES.values(), RISING, strict=True)) in test
    assert dict(zip(SIZES.values(), (pytest.approx(value + 0.05) for value in RISING), strict=True)) in train
    assert lines_of(draw_curves(panel, NARROW)) == [test]


def test_costs_show_the_rows() -> None:
    (panel,) = make_panels_of(make_content(rows_of()), split=False)
    time, memory = lines_of(draw_costs(panel, WIDE))
    assert {10.0: 0.6} in time
    assert {100.0: 0.6} in memory


def test_what_lies_beyond_the_axis_is_drawn_at_its_edge_and_said() -> None:
    (panel,) = make_panels_of(make_content(make_curve("wild", [0.0, 0.1, 5.4, 2.0, 1.0])))
    figure = draw_curves(panel, NARROW)
    assert max(y for line in lines_of(figure)[0] for y in line.values()) == 1.5
    assert figure.axes[0].get_ylabel() == "held-out faithfulness (cut at -0.5 and 1.5)"


def test_equal_content_gives_equal_bytes_and_changes_no_settings() -> None:
    before = dict(mpl.rcParams)
    first, again = (draw_pictures(make_content(rows_of())) for _ in range(2))
    assert [picture.name for picture in first] == ["curves-1", "cost-1"]
    assert first == again
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_labels_are_text(name: str) -> None:
    for picture in draw_pictures(make_content(rows_of(name))):
        for svg in (picture.svg, picture.column):
            texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
            shown = "".join(one if one.isprintable() else " " for one in name)
            assert (shown if len(shown) <= 32 else f"{shown[:31]}…").strip() in [str(text).strip() for text in texts]


def test_sizes_are_those_of_a_page_and_a_column() -> None:
    picture: Picture
    for picture in draw_pictures(make_content(rows_of())):
        assert Image.open(io.BytesIO(picture.png)).width == WIDE * 200
        for svg, width in ((picture.svg, WIDE), (picture.column, NARROW)):
            assert ElementTree.fromstring(svg).get("width") == f"{72 * width:g}pt"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([], []),
        ([make_row(strategy="eap", error="it broke")], []),
        (make_curve("eap", RISING)[-1:], ["curves-1"]),
        (make_curve("eap", RISING)[:1], ["curves-1", "cost-1"]),
        (make_curve("eap", RISING, wall_s=None), ["curves-1", "cost-1"]),
        (make_curve("eap", RISING, wall_s=None, peak_mb=None), ["curves-1"]),
        (make_curve("random control", RISING), ["curves-1"]),
    ],
)
def test_every_state_has_its_pictures(rows: list[dict[str, Any]], names: list[str]) -> None:
    assert [picture.name for picture in draw_pictures(make_content(rows))] == names
