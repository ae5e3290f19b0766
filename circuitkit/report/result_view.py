"""A result as HTML: a picture of its circuit, its summary, and the interactive viewer."""

from collections.abc import Mapping, Sequence
from html import escape

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing.viewer import Interval, MeasuredSize, viewer_data, viewer_html
from circuitkit.errors import MissingPackageError, require_package
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.intervals import Figure
from circuitkit.report.figures import format_interval
from circuitkit.report.notebook import image_html

_MOST_EDGES = 20_000
"""Edges that the viewer knows in all, at 12 bytes each; circuits that a method chose are there as a whole."""
_FEWEST = 1_000
"""Edges of each circuit that it knows at least."""
_VIEWER = "width: 100%; height: 46rem; border: 1px solid #8888"


def result_html(
    circuits: Sequence[Circuit], evaluations: Mapping[str, Sequence[Evaluation]], name: str, summary: str
) -> str:
    """Make the HTML of a `Result`, given by its parts.

    The picture is there even where a notebook's scripts are not run. The viewer is a page of its own in a frame, whose
    scripts reach nothing outside of it.

    Args:
        circuits: its circuits; the picture is of the first.
        evaluations: by split; the viewer has the faithfulness on test.
        name: of the method, as text.
        summary: as text.
    """
    test = evaluations.get("test", ())
    most = max(_MOST_EDGES // len(circuits), _FEWEST)
    described = [
        viewer_data(
            circuit,
            f"{name}, {circuit.selection}" if len(circuits) > 1 else name,
            measured_sizes(test[number]) if test else (),
            most=most,
        )
        for number, circuit in enumerate(circuits)
    ]
    head, *_ = summary.partition("\n")
    found = [_describe(circuit, test[number] if test else None) for number, circuit in enumerate(circuits)]
    page = escape(viewer_html(described, name))
    return (
        f"<div>{picture_html(circuits[0])}<p>{'<br>'.join(map(escape, [head, *found]))}</p>"
        f'<details><summary>All figures, cost and notes</summary><pre style="overflow-x: auto">{escape(summary)}</pre>'
        f"</details><iframe title='The circuits, interactive' sandbox='allow-scripts' style='{_VIEWER}' "
        f'srcdoc="{page}"></iframe></div>'
    )


def _describe(circuit: Circuit, test: Evaluation | None) -> str:
    """Say how large a circuit is, and how faithful on held-out prompts."""
    size = f"{len(circuit):,} of {len(circuit.graph):,} edges ({circuit.selection})"
    if circuit.is_ranking:
        return f"A score for each of {len(circuit.graph):,} edges; choose a size with .top(n)"
    own = next((point.searched.faithfulness for point in test.curve("own")), None) if test else None
    return f"{size}: faithfulness {format_interval(own)} on held-out prompts" if own else size


def picture_html(circuit: Circuit) -> str:
    """Draw a circuit as an image element that holds its data; without matplotlib, say how to get it."""
    try:
        require_package("matplotlib", "report")
    except MissingPackageError as error:
        return f"<p>No picture: {escape(str(error))}</p>"
    from circuitkit.circuit.drawing.picture import render_picture  # imports matplotlib, which takes a second

    return image_html(render_picture(circuit, "png"), repr(circuit))


def measured_sizes(evaluation: Evaluation) -> list[MeasuredSize]:
    """List the sizes at which a circuit or ranking by |score| was measured, in the searched objective."""
    points = {point.edges_asked: point for ranking in ("absolute", "own") for point in evaluation.curve(ranking)}
    return [
        MeasuredSize(edges=edges, faithfulness=_interval(point), split=evaluation.split)
        for edges, point in points.items()
        if edges
    ]


def _interval(point: Point) -> Interval | None:
    value, low, high = point.searched.faithfulness or Figure(None, None, None)
    return None if value is None else Interval(value=value, low=low, high=high)
