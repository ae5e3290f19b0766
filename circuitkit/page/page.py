"""Writes the page of a comparison or a run: `report.html`, `report.md`, and pictures in `report_files`."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitkit.circuit.drawing.viewer import viewer_assets
from circuitkit.errors import CircuitKitError, UsageError, require_package
from circuitkit.evaluation.intervals import Figure
from circuitkit.page.blocks import Block, list_licences, make_block, pack, read_asset, read_libraries
from circuitkit.page.charts import chart_config, find_looks, make_charts
from circuitkit.page.circuits import describe_circuits
from circuitkit.page.content import Content
from circuitkit.page.contested import list_contested
from circuitkit.page.flags import flag_size
from circuitkit.page.headline import headline
from circuitkit.page.leaderboard import Entry, describe_criterion, leaderboard
from circuitkit.page.prompts import prompt_section
from circuitkit.page.provenance import describe_cell, list_facts, list_hashes, summarize
from circuitkit.report.figures import GOOD, format_interval, format_seconds
from circuitkit.report.over_seeds import SeedAverage
from circuitkit.run.run_folder import IN_REPORT_FILES, REPORT_FILES, REPORT_HTML, REPORT_MARKDOWN
from circuitkit.storage.files import to_path, write_atomically

if TYPE_CHECKING:
    from circuitkit.page.pictures import Picture

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$#&!])")
_FILTERED = ("Model", "Task", "Objective")


def write_report(folder: str | Path, out: str | Path | None = None, reference: str | Path | None = None) -> list[Path]:
    """Write the page of a comparison's folder or a run's, finished or not; an older page is replaced.

    Args:
        folder: the folder.
        out: where to write, created if it is missing; by default into the folder itself.
        reference: a circuit whose edges are the right ones, as in `load_reference`: how well methods find them.

    Returns:
        The files: `report.html`, which needs none of the others, `report.md`, and the pictures.

    Raises:
        UsageError: the folder holds neither a comparison nor a run, or the reference is of another graph.
        CircuitKitError: a file is damaged, the page cannot be written, or matplotlib is not installed.
    """
    if out == "":
        raise UsageError("The folder for the page has an empty name.", "Give its name, or . for the current folder.")
    require_package("matplotlib", "report")
    from circuitkit.page.pictures import draw_pictures

    content = Content.load(folder)
    target = to_path(folder if out is None else out)
    if os.path.exists(target) and not os.path.isdir(target):  # noqa: PTH110, PTH112  no error for long names
        raise UsageError(f"{str(target)!r} is not a folder.", "Give another one.")
    pictures, described = draw_pictures(content), _describe(content)
    html = _render("report.html.j2", described | _for_html(content, reference))
    text = _render("report.md.j2", described | {"pictures": pictures, "picture_folder": REPORT_FILES})
    try:
        written = _write_pictures(target / REPORT_FILES, pictures)
        write_atomically(target / REPORT_MARKDOWN, text.encode())
        write_atomically(target / REPORT_HTML, html.encode())
    except CircuitKitError as error:
        raise CircuitKitError(error.problem, "Write the page into another folder (--out FOLDER, out=...).") from error
    return [target / REPORT_HTML, target / REPORT_MARKDOWN, *written]


def _write_pictures(folder: Path, pictures: "Sequence[Picture]") -> list[Path]:
    """Write pictures, and remove those of an older page."""
    files: dict[str, bytes] = {}
    for one in pictures:
        files |= {f"{one.name}.svg": one.svg, f"{one.name}.png": one.png, f"{one.name}-column.svg": one.column}
    for name, data in files.items():
        write_atomically(folder / name, data)
    for old in (old for pattern in IN_REPORT_FILES for old in folder.glob(pattern) if old.name not in files):
        old.unlink()
    return [folder / name for name in files]


def _describe(content: Content) -> dict[str, Any]:
    """Return what HTML and Markdown show alike."""
    entries = leaderboard(content.frame, content.controls)
    found = headline(content, entries)
    methods = [entry.method for entry in entries if not entry.is_control]
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    filters = [(name, list(dict.fromkeys(getattr(entry, name.lower()) for entry in entries))) for name in _FILTERED]
    longest = max((len(run) for run in re.findall("`+", content.config)), default=0)
    return {
        "content": content,
        "headline": found,
        "findings": found.evidence if len(found.evidence) > 1 or any(one.purposes for one in found.evidence) else (),
        "summary": summarize(content),
        "entries": entries,
        "several_methods": len(set(methods)) > 1,
        "ranked": content.kind == "comparison"
        and any(sum(not entry.is_control for entry in of) > 1 for of in groups.values()),
        "several_seeds": any(entry.seeds > 1 for entry in entries),
        "controls": {group: next((one for one in of if one.is_control), None) for group, of in groups.items()},
        "looks": find_looks(content),
        "criterion": " or ".join(dict.fromkeys(map(describe_criterion, groups.values()))),
        "filters": [(name, values) for name, values in filters if len(values) > 1],
        "failed": [cell for cell in content.cells if cell.state == "failed"],
        "unfinished": [cell for cell in content.cells if cell.state == "unfinished"],
        "notes": _notes(entries),
        "facts": list_facts(content),
        "hashes": list_hashes(content),
        "holds": _describe_holding(any(entry.seeds > 1 for entry in entries)),
        "fence": "`" * max(3, longest + 1),
    }


def _for_html(content: Content, reference: str | Path | None) -> dict[str, Any]:
    """Return what only the page has: charts, circuits and scripts."""
    charts = make_charts(content, reference)
    circuits, left = describe_circuits(content)
    viewer = viewer_assets()
    blocks: list[Block] = []
    scripts, style = [], read_asset("page.css")
    if charts:
        configs = {"dark" if dark else "light": chart_config(dark) for dark in (False, True)}
        blocks.append(make_block("chart-data", {"configs": configs, **{chart.id: chart.spec for chart in charts}}))
        blocks.append(pack("chart-script", read_libraries()))
    if circuits["circuits"]:
        blocks.append(make_block("circuit-data", circuits))
        blocks.append(pack("circuit-script", viewer.js))
        style = f"{viewer.css}\n{style}"
    if (prompts := prompt_section(content)) is not None:
        blocks.append(make_block("prompt-data", prompts))
        scripts.append(read_asset("prompts.js"))
        style = f"{style}\n{read_asset('prompts.css')}"
    sections = [
        ("leaderboard", "Leaderboard"),
        ("curves", "Curves"),
        ("circuits", "Circuits"),
        ("contested", "Contested edges"),
        ("prompts", "Prompts"),
        ("provenance", "Provenance"),
    ]
    contested = list_contested(content)
    shown = {
        "curves": bool(charts),
        "circuits": bool(circuits["circuits"]),
        "contested": bool(contested),
        "prompts": prompts is not None,
    }
    return {
        "charts": charts,
        "circuit_data": bool(circuits["circuits"]),
        "circuits_left": left,
        "contested": contested,
        "prompts": prompts,
        "blocks": blocks,
        "scripts": [Markup(script) for script in [*scripts, read_asset("page.js")]],
        "css": Markup(style),
        "licences": list_licences(viewer=bool(circuits["circuits"])),
        "sections": [one for one in sections if shown.get(one[0], True)],
        "version": metadata.version("pahq-circuitkit"),
        "now": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }


def _describe_holding(several_seeds: bool) -> str:
    every = f", and each seed's is from {GOOD:g} to {2 - GOOD:g}" if several_seeds else ""
    return (
        f"A circuit holds if its faithfulness on held-out prompts is at least {GOOD:g} with 95% confidence, and at "
        f"most {2 - GOOD:g}{every}. It is the smallest of the sizes tried, chosen on these prompts: confirm it on "
        "others. Between two sizes a smaller one may hold."
    )


def _notes(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """List every note once, with the methods that it is about."""
    about: dict[str, dict[str, None]] = {}
    for entry in entries:
        for note in entry.notes:
            about.setdefault(note, {})[entry.method] = None
    return [(note, ", ".join(methods)) for note, methods in about.items()]


def _render(template: str, values: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("circuitkit.page"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell_name": describe_cell,
        "decimals": lambda value: f"{value:z.2f}",
        "figure": _format_figure,
        "flags": flag_size,
        "md": _escape_markdown,
        "megabytes": lambda value: "–" if value is None else f"{value:,.0f} MB",
        "seconds": lambda value: "–" if value is None else format_seconds(value),
        "sortable": lambda value: "" if value is None else f"{value:.6g}",
        "whole": lambda value: f"{value:,.0f}",
    }
    return environment.get_template(template).render(values)


def _format_figure(figure: SeedAverage | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    spread = "" if figure.spread is None else f" ±{figure.spread:.2f}"
    return f"{format_interval(Figure(*figure[:3]))}{spread}"


def _escape_markdown(text: Any) -> str:
    """Escape a text for a line or a table's cell of Markdown, so that nothing in it is markup, a link or HTML."""
    one_line = " ".join(str(text).split())
    return _MARKDOWN.sub(r"\\\1", one_line).replace("://", "\\://").replace("www.", "www\\.")
