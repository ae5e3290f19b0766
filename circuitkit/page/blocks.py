"""Data and scripts inside a page: in forms that cannot end their element, and small."""

import base64
import gzip
import json
from importlib import resources
from typing import Any, NamedTuple

from markupsafe import Markup

_LARGE = 20_000
"""Characters of JSON from which it is compressed."""
_LIBRARIES = ("vega", "vega-lite", "vega-embed")
JSON, GZIP = "application/json", "application/gzip+base64"


class Block(NamedTuple):
    """A `<script>` element that holds data, which `page.js` reads by its id."""

    id: str
    type: str
    text: Markup


def make_block(name: str, value: Any) -> Block:
    """Make a block of data: JSON or, of much of it, its compressed form, which browsers can read.

    Args:
        name: the id of the element.
        value: plain data.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    if len(text) > _LARGE:
        return pack(name, text)
    # In a script element nothing is an entity; `<` could end it, or begin a comment in it
    return Block(name, JSON, Markup(text.replace("<", "\\u003c")))


def pack(name: str, text: str) -> Block:
    """Make a block of a compressed text: of data, or of a script that runs only once it is needed."""
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return Block(name, GZIP, Markup(packed))


def read_asset(name: str) -> str:
    """Read a file of `assets`."""
    return (resources.files("circuitkit.page") / "assets" / name).read_text(encoding="utf-8")


def read_libraries() -> str:
    """Return the script of the charts' library."""
    return "\n".join(read_asset(f"{name}.min.js") for name in _LIBRARIES)


def list_licences(viewer: bool) -> list[tuple[str, str]]:
    """Return the names and licences of the libraries in a page.

    Args:
        viewer: whether it has the viewer of circuits.
    """
    found = [(name, read_asset(f"{name}.LICENSE.txt")) for name in _LIBRARIES]
    if viewer:
        file = resources.files("circuitkit.circuit.drawing") / "assets" / "cytoscape.LICENSE.txt"
        found.append(("Cytoscape.js", file.read_text(encoding="utf-8")))
    return found
