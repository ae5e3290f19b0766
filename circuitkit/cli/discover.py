"""`circuitkit discover`: one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from circuitkit.cli import trusted
from circuitkit.cli.arguments import (
    KIND_OF,
    add_evaluation_options,
    add_memory_option,
    add_run_options,
    class_paths,
    make_console,
    parse,
    say,
    silence_libraries,
)
from circuitkit.cli.report import add_option, check_page, offer_page
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.storage.new_folder import output_folder

if TYPE_CHECKING:
    from circuitkit.strategies.discovery import Discovery

_OWNERS = {"precision": "strategy", "objective": "task"}
"""The options that are left to another one by default."""


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Discover, print the result, and say where it is saved."""
    _add_options(parser)
    with class_paths(arguments):
        values = parse(parser, arguments, list(KIND_OF))
        if values["resume"] and not values["out"]:
            raise UsageError("--resume has no folder to resume from.", "Name the run's folder with --out.")
        return _discover(values)


def _discover(values: dict[str, Any]) -> int:
    silence_libraries()
    from circuitkit.run.callbacks import RichProgress
    from circuitkit.run.discoverer import Discoverer

    report = values.pop("report")
    check_page(report)
    model = {name: values.pop(name) for name in ("kv", "dtype", "positions")} | {"name": values.pop("model")}
    options = {name: values.pop(name) for name in ("accelerator", "devices", "seed", "memory_budget", "trusted_only")}
    discoverer = Discoverer(callbacks=[_EarlyNotes(), RichProgress()], **options)
    if discoverer.rank:  # of several processes, the first one prints
        if not values.pop("dry_run"):
            discoverer.run(model=model, **values)
        return 0
    if values.pop("dry_run"):
        from circuitkit.report.dry_run import dry_run_table

        make_console().print(dry_run_table(discoverer.dry_run(model=model, **values)))
        return 0
    labels = (specs.label(KIND_OF[name], values[name]) for name in ("strategy", "task"))
    given = values.pop("out")
    with output_folder(given, "-".join(labels)) as out:
        if not given:
            _point_to_interrupted(out, model, discoverer.seed, values)
        result = discoverer.run(model=model, out=out, **values)
    print(result)
    print(f"Saved in {out}")
    offer_page(out, report)
    return 0


class _EarlyNotes:
    """Prints what is known before the search, such as that the model hardly does the task."""

    def on_load_end(self, run: "Discovery") -> None:
        for note in run.notes:
            say(f"circuitkit: {note}")


def _point_to_interrupted(out: Path, model: dict[str, str], seed: int, values: dict[str, Any]) -> None:
    """Say if an interrupted run of this configuration is in another folder beside the new one."""
    from circuitkit.run.earlier_run import find_interrupted
    from circuitkit.run.run_config import RunConfig, RunOptions
    from circuitkit.run.run_folder import how_to_resume

    options = {key: values[key] for key in RunOptions.__annotations__}
    config = RunConfig.make(model, values["task"], values["strategy"], seed, **options)
    if found := find_interrupted(out.parent, config.config):
        say(f"circuitkit: {found} has an interrupted run of this. {how_to_resume(found)}")


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="config", help="YAML file with the options below, such as a run's config.yaml"
    )
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="a packaged or fetched model (`circuitkit list models`), a folder, or a Hugging Face name",
    )
    parser.add_argument(
        "--kv",
        type=str,
        default="group",
        help="group or head: read keys and values once per key-value group, or once per query head",
    )
    parser.add_argument("--dtype", type=str, default="float32", help="dtype of the weights")
    parser.add_argument(
        "--positions",
        type=str,
        default="constant",
        help="constant or writer: leave learned position embeddings in the stream, or let edges carry them",
    )
    for name, kind in KIND_OF.items():
        shown = f"name (see `circuitkit list {kind}`) or class path; its arguments are options --{name}.ARGUMENT"
        if name in _OWNERS:
            shown += f"; by default the {_OWNERS[name]}'s own"
            parser.add_argument(f"--{name}", type=specs.base(kind) | None, default=None, help=shown)
        elif name == "ablation":
            default = specs.rewrite(kind, "resample")
            parser.add_argument(f"--{name}", type=specs.base(kind), default=default, help=shown)
        else:
            parser.add_argument(f"--{name}", type=specs.base(kind), required=True, help=shown)
    parser.add_argument(
        "--examples",
        type=int | list[int],
        default=32,
        help="maximum number of prompts per split: one number, or three such as [64,32,64] for train, validation, test",
    )
    parser.add_argument(
        "--faithfulness",
        type=float | None,
        default=None,
        help="find the smallest circuit with this faithfulness on the validation split, at whatever size, threshold or "
        "target it takes",
    )
    add_evaluation_options(parser, "by default the circuit's own, or 0.01, 0.05, 0.2 for a ranking; []: no evaluation")
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts, the strategy and the random control")
    add_run_options(parser, "runs/STRATEGY-TASK-TIME", "number of processes, which torchrun must have launched")
    add_option(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="return the result of a finished run of this configuration in the folder, or continue an interrupted one",
    )
    add_memory_option(parser)
    trusted.add_option(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="time a few steps, predict the run's memory and time, write nothing"
    )
