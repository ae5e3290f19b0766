"""`circuitkit compare`: a grid of discoveries."""

from importlib import resources
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from circuitkit.cli.arguments import (
    add_run_options,
    current_folder_on_path,
    make_console,
    output_folder,
    parse,
    say,
    silence_libraries,
    to_config_text,
)
from circuitkit.errors import CircuitKitError
from circuitkit.storage.text import read_yaml

if TYPE_CHECKING:
    from circuitkit.compare.grid import Cell


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Run the grid, print a table per model and task, and save `results.csv`."""
    from circuitkit.compare.grid import Grid

    parser.add_argument("--config", action="config", help="YAML file with the options below; see examples/")
    parser.add_class_arguments(Grid)
    parser.add_argument("--seed", type=int | None, default=None, help="one seed, instead of --seeds")
    add_run_options(parser, "runs/compare-TIME")
    if not any(argument.partition("=")[0] == "--config" for argument in arguments):
        with resources.as_file(resources.files("circuitkit.compare") / "default.yaml") as default:
            arguments = ["--config", to_config_text(read_yaml(default)), *arguments]
    values = parse(parser, arguments, ["objective", "ablation"])
    with current_folder_on_path():
        return _compare(values)


def _compare(values: dict[str, Any]) -> int:
    silence_libraries()
    from circuitkit.compare.grid import Grid
    from circuitkit.compare.runner import ComparisonRunner, compare
    from circuitkit.report.tables import comparison_tables

    out, overwrite = values.pop("out"), values.pop("overwrite")
    where = {name: values.pop(name) for name in ("accelerator", "devices")}
    if (seed := values.pop("seed")) is not None:
        values["seeds"] = [seed]
    grid = Grid(**values)
    total = len(grid.cells)

    def show(number: int, cell: "Cell", seconds: float, error: str | None) -> None:
        outcome = f"failed: {error}" if error else f"{seconds:.1f} s"
        say(f"[{number + 1}/{total}] {cell}: {' '.join(outcome.split())}")

    with output_folder(out, "compare") as folder:
        rows = compare(grid, ComparisonRunner(grid, **where), folder, overwrite=overwrite, on_cell_end=show)
    console = make_console()
    for table in comparison_tables(rows):
        console.print(table)
    failed = sum(bool(row["error"]) for row in rows)
    if failed:
        say(f"circuitkit: {failed} of {total} cells failed; their errors are in the results.")
    print(f"Saved in {folder / 'results.csv'}")
    return CircuitKitError.exit_code if failed else 0
