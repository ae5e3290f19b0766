"""Pages of the notebooks for MkDocs: their text, their code, and what it prints.

Notebooks are committed without outputs. `mkdocs build` executes each one in a temporary folder, so that an error in one
fails the build; `mkdocs serve`, and a build with `CIRCUITKIT_DOCS_EXECUTE=false`, show the code alone. What libraries
write to stderr, such as progress bars, is left out.
"""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
_pictures = dict[str, str]()
"""HTML outputs of all notebooks, by the id of the element that stands for them until the Markdown is converted."""
_executing = os.environ.get("CIRCUITKIT_DOCS_EXECUTE", "true") != "false"


def on_startup(command: str, dirty: bool) -> None:
    """Execute nothing while somebody writes."""
    global _executing
    _executing = _executing and command != "serve"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook; the notebook itself is a file to download."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            notebook = nbformat.read(str(file.abs_src_path), as_version=4)
            if _executing:
                execute(notebook)
            name = Path(file.src_uri).name
            text = show_notebook(notebook, name)
            files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the HTML outputs in their places."""
    return re.sub(r'(?<=<div class="output" id=")([^"]+)(">)(?=</div>)', lambda m: m[0] + _pictures[m[1]], html)


def execute(notebook: Any) -> None:
    """Run all cells in a temporary folder."""
    with TemporaryDirectory() as folder:
        path = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), path] if path else [str(ROOT)])}
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute(env=environment)


def show_notebook(notebook: Any, name: str) -> str:
    """Write a notebook as Markdown."""
    parts = list[str]()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [show_output(output, f"{name}-{number}-{index}") for index, output in enumerate(cell.outputs)]
        if number == 0:
            parts.append(f'<a href="../{name}" download>Download this notebook</a>')
    return "\n\n".join(filter(None, parts)) + "\n"


def show_output(output: Any, label: str) -> str:
    """Write one output: its HTML if it has some, otherwise its text."""
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```" if output.name == "stdout" else ""
    if "text/html" in output.data:
        _pictures[label] = output.data["text/html"]
        return f'<div class="output" id="{label}"></div>'
    return f"```text\n{output.data['text/plain'].rstrip()}\n```"
