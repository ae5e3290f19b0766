"""`circuitkit evaluate`: evaluate the circuits of a run folder again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from circuitkit.cli.arguments import (
    add_evaluation_options,
    add_memory_option,
    current_folder_on_path,
    make_console,
    parse,
    silence_libraries,
)


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Evaluate, print a table per circuit, and save `evaluation.json`."""
    parser.add_argument("run", type=str, help="a run folder")
    add_evaluation_options(parser, "by default MIB's; []: only the circuits' own edges")
    parser.add_argument(
        "--examples",
        type=int | list[int] | None,
        default=None,
        help="maximum number of prompts per split: one number, or three such as [64,32,64] for train, validation, "
        "test; by default the run's",
    )
    parser.add_argument(
        "--seed", type=int | None, default=None, help="seed of the prompts and the random control; by default the run's"
    )
    parser.add_argument(
        "--minimality",
        type=int,
        default=0,
        help="how many edges to sample from each circuit and remove one by one; by default none",
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="a circuit to compare with: a known one (`circuitkit list references`), a run folder, a circuit's folder, "
        "or EAP-IG's .json or .pt file",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda, or auto (cuda if available)")
    add_memory_option(parser)
    parser.add_argument(
        "--allow_code",
        action="store_true",
        help="import the classes that the run's config names, also from the current folder; by default only registered "
        "ones, since the config may name any code",
    )
    values = parse(parser, arguments)

    silence_libraries()
    from circuitkit.report.evaluation_tables import evaluation_tables
    from circuitkit.run.reevaluate import reevaluate

    folder, given = Path(values.pop("run")), values.pop("reference")
    agreements = [] if given is None else _compare(folder, given)
    with current_folder_on_path() if values["allow_code"] else nullcontext(), _show_progress() as report:
        circuits, evaluations = reevaluate(folder, **values, report=report)
    console = make_console()
    for number, circuit in enumerate(circuits):
        of_circuit = [found[number] for found in evaluations.values()]
        console.print(evaluation_tables(of_circuit, f"{folder}: {circuit.selection}"))
        if agreements:
            console.print(agreements[number], markup=False)
    print(f"Saved in {folder / 'evaluation.json'}")
    return 0


@contextmanager
def _show_progress() -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on stderr, if that is a terminal, and yield what moves it."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, description=f"{done:,} of {total:,} evaluations", completed=done, total=total)

        yield move


def _compare(folder: Path, given: str) -> list[str]:
    """Say how far each circuit of a run agrees with a reference circuit."""
    from circuitkit.evaluation.reference import compute_agreement, load_reference
    from circuitkit.report.figures import describe_agreement
    from circuitkit.run.result import Result

    result = Result.load(folder)
    circuits = result.circuits
    reference = load_reference(given, circuits[0].graph, result.config["model"])
    return [describe_agreement(compute_agreement(one, reference), reference, one) for one in circuits]
