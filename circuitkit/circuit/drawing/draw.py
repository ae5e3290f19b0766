"""`Circuit.draw`: a picture of the kind that the file's ending says."""

import base64
from html import escape
from pathlib import Path

from circuitkit.circuit.drawing.subject import Subject
from circuitkit.errors import MissingPackageError, UsageError, require_package
from circuitkit.storage.files import write_atomically

_ENDINGS = (".svg", ".png", ".html", ".dot")


def draw(circuit: Subject, path: Path) -> None:
    """Write a picture, as `Circuit.draw` describes."""
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise UsageError(f"{str(path)!r} is not the name of a picture.", f"End it in one of {', '.join(_ENDINGS)}.")
    write_atomically(path, _render(circuit, ending))


def _render(circuit: Subject, ending: str) -> bytes:
    # Each of these loads a library, which is not needed for the others
    if ending == ".html":
        from circuitkit.circuit.drawing.viewer import viewer_data, viewer_html

        return viewer_html([viewer_data(circuit)]).encode()
    require_package("matplotlib", "report")
    if ending == ".dot":
        require_package("pydot", "report")
        from circuitkit.circuit.drawing.dot import render_dot

        return render_dot(circuit).encode()
    from circuitkit.circuit.drawing.picture import render_picture

    return render_picture(circuit, "svg" if ending == ".svg" else "png")


def notebook_html(circuit: Subject) -> str:
    """Return an `<img>` that holds the picture, so that it also shows where a notebook's scripts do not run."""
    try:
        data = base64.b64encode(_render(circuit, ".svg")).decode()
    except MissingPackageError as error:
        return f"<p>{escape(repr(circuit))}</p><p>No picture: {escape(str(error))}</p>"
    return f'<img style="max-width: 100%" alt="{escape(repr(circuit))}" src="data:image/svg+xml;base64,{data}">'
