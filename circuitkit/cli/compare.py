"""`circuitkit compare`: a grid of discoveries."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from circuitkit.cli import trusted
from circuitkit.cli.arguments import (
    add_run_options,
    class_paths,
    make_console,
    parse,
    say,
    silence_libraries,
    to_config_text,
)
from circuitkit.cli.report import add_option, check_page, offer_page
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.storage.text import read_yaml

if TYPE_CHECKING:
    from circuitkit.comparison.comparison import Comparison
    from circuitkit.comparison.grid import Grid


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Run the grid, print a table per model and task, and save `results.csv` and `results.parquet`."""
    from circuitkit.comparison.grid import Grid

    parser.add_argument("--config", action="config", help="YAML file with the options below; see examples/")
    parser.add_class_arguments(Grid)
    parser.add_argument("--seed", type=int | None, default=None, help="one seed, instead of --seeds")
    add_run_options(parser, "runs/compare-TIME", "only 1: a cell runs on one device (see --workers)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the comparison in the folder: run what is missing, failed or interrupted",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="how many cells run at once; times are comparable only with 1"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="predict the memory and time of every cell, write nothing"
    )
    parser.add_argument(
        "--executor", type=str, default="process", help="process, or ray: tasks of a Ray cluster (extra `ray`)"
    )
    trusted.add_option(parser)
    add_option(parser)
    if not _has(arguments, "--config") and (earlier := _config_to_resume(arguments)):
        arguments = ["--config", earlier, *arguments]
    if not _has(arguments, "--config"):
        with resources.as_file(resources.files("circuitkit.comparison") / "default.yaml") as default:
            arguments = ["--config", to_config_text(read_yaml(default)), *arguments]
    with class_paths(arguments):
        values = parse(parser, arguments, ["ablation"])
        if values["resume"] and not values["out"]:
            raise UsageError("--resume has no folder to resume from.", "Name the comparison's folder with --out.")
        return _compare(values)


def _has(arguments: list[str], option: str) -> bool:
    return any(argument.partition("=")[0] == option for argument in arguments)


def _config_to_resume(arguments: list[str]) -> str:
    """Return the config of the comparison to resume; empty if there is none."""
    outs = [
        argument.partition("=")[2] or "".join(arguments[number + 1 : number + 2])
        for number, argument in enumerate(arguments)
        if argument.partition("=")[0] == "--out"
    ]
    found = Path(outs[-1]) / "config.yaml" if outs and "--resume" in arguments else None
    return str(found) if found is not None and found.exists() else ""


def _compare(values: dict[str, Any]) -> int:
    silence_libraries()
    from circuitkit.comparison.grid import Grid
    from circuitkit.comparison.progress import GridProgress
    from circuitkit.comparison.runner import compare

    out, report = values.pop("out"), values.pop("report")
    check_page(report)
    names = ("accelerator", "devices", "resume", "overwrite", "workers", "executor", trusted.NAME)
    how = {name: values.pop(name) for name in names}
    if (seed := values.pop("seed")) is not None:
        values["seeds"] = [seed]
    if values.pop("dry_run"):
        return _dry_run(Grid(**values), how["accelerator"], how["devices"])
    grid = Grid(**values)
    found = compare(grid, out, **how, progress=GridProgress())
    status = _show(found, len(grid.cells))
    offer_page(found.folder, report)
    return status


def _dry_run(grid: "Grid", accelerator: str, devices: int) -> int:
    """Print what every cell would need."""
    from circuitkit.comparison.dry_run import predict_cells
    from circuitkit.report.dry_run import grid_dry_run_table

    found = [
        (str(one.cell), f"{one.cell.task} in {one.cell.model}", one.dry_run, one.error)
        for one in predict_cells(grid, accelerator, devices)
    ]
    make_console().print(grid_dry_run_table(found))
    return 0


def _show(comparison: "Comparison", cells: int) -> int:
    """Print the tables, and what to know about them; return the exit status."""
    from circuitkit.comparison.comparison_folder import AGREEMENT, CSV, PARQUET, reproduce_command

    folder = comparison.folder
    make_console().print(comparison)
    if failed := sum(bool(row["error"]) for row in comparison):
        say(f"circuitkit: {failed} of {cells} cells failed; their errors are in the results.")
    print(f"Each row has its folder; repeat its run with: {reproduce_command(folder / 'FOLDER')}")
    print(f"Saved in {folder / CSV} and {PARQUET}; how far methods agree: {AGREEMENT}")
    return CircuitKitError.exit_code if failed else 0
