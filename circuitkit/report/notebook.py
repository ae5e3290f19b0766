"""Shows an object: in a notebook as its HTML, elsewhere as text, with its page opened in a browser if there is one."""

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path

from circuitkit.errors import CircuitKitError

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ font-family: system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem }}</style>
</head>
<body>
<h1 style="font-size: 1.2rem">{title}</h1>
{body}
</body>
</html>
"""


def display(thing: object) -> bool:
    """Display an object in the notebook that this process runs; False if it runs none."""
    if not (ipython := sys.modules.get("IPython")) or getattr(ipython.get_ipython(), "kernel", None) is None:
        return False
    ipython.display.display(thing)
    return True


def image_html(png: bytes, alternative: str) -> str:
    """Return an image element that holds a picture with two pixels per point of the screen.

    Args:
        png: the picture.
        alternative: what screen readers say, as text.
    """
    width = int.from_bytes(png[16:20]) // 2  # from the header
    data = base64.b64encode(png).decode()
    style = f"max-width: 100%; width: {width}px"
    return f'<img alt="{escape(alternative)}" style="{style}" src="data:image/png;base64,{data}">'


def show(thing: object, title: str, body: Callable[[], str]) -> None:
    """Show an object: in a notebook as `display` does; elsewhere print it, and write a page, which a browser opens.

    Args:
        thing: the object.
        title: of the page, as text.
        body: makes the page's content, as HTML.

    Raises:
        CircuitKitError: the page cannot be written.
    """
    if display(thing):
        return
    print(thing)
    path = _write_page(_PAGE.format(title=escape(title), body=body()))
    print(f"Drawn in {path}")
    if _has_display():
        open_page(path)


def _write_page(text: str) -> Path:
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="circuitkit-", suffix=".html", delete=False
        ) as file:
            file.write(text)
    except OSError as error:
        problem = f"No page can be written to {tempfile.gettempdir()}: {error.strerror}."
        raise CircuitKitError(problem, "Free disk space, or set TMPDIR to another folder.") from error
    return Path(file.name)


def open_page(path: Path) -> None:
    """Open a file in the browser, if there is one. Python's `webbrowser` runs in a process of its own.

    There a browser that is slow to start keeps nobody waiting, and one for terminals has no terminal to take over.
    """
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", "webbrowser", path.absolute().as_uri()]
    with suppress(OSError):
        subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _has_display() -> bool:
    """Tell whether windows can be opened; on Linux, two variables say so."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
