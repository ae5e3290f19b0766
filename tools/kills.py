"""Kill discoveries at random moments, resume them, and compare what they find with undisturbed runs.

    OMP_NUM_THREADS=1 python tools/kills.py [--kills 100] [--seed 0]

Each run is an ACDC search on the toy model, with or without a trained proposal, in a process of its own, started with
`resume`. At a random moment it gets SIGKILL, as by `kill -9`, and then started again: half of the times between the
start of its search and the end of the process, half of them while its results are written and moved to their place,
which is slowed down for this. After one to five kills it runs to its end. Its circuits, scores, their sources, and the
counts of the search must equal those of an undisturbed run bit for bit. The last line has the number of kills and of
runs; a difference ends the script with status 1.

Processes are forked from a server that has imported everything, so that a kill takes a second or two.
"""

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.run.run_folder import RunFolder
from circuitkit.strategies import discovery

SPECS: list[dict[str, Any]] = [
    {"threshold": [0.05, 0.3], "absolute": True, "try_whole_reader": True},
    {"threshold": [0.1, 0.02], "absolute": True, "screen": 0.25},
    {"threshold": 0.05, "order": "shuffle"},
    {
        "threshold": [0.02, 0.1],
        "rising": True,
        "start": {"class_path": "edge_pruning", "init_args": {"target": 0.5, "trainer": {"max_steps": 20}}},
    },
    {"threshold": [0.1, 0.3], "prompts_per_layer": 4, "race": 2.0, "race_start": 2, "screen": 0.25},
]
PAUSE, FILLING = 0.02, 0.8
"""Seconds before each file when filling is slowed down, and of all of it."""
MOST_KILLS = 5
"""The largest number of kills of one run."""
COUNTS = (
    "edges_tested",
    "readers_tested",
    "joint_tests",
    "hypotheses",
    "hypotheses_wasted",
    "gradients",
    "forward_equivalents",
    "smallest_gap",
    "captures_mb",
    "live_mb",
    "cone_mb",
    "proposal_edges",
    "race_prompts",
    "race_escalated",
    "race_flipped",
    "race_audits_flipped",
)


class Started:
    """A callback that sends a message when the search begins."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_discovery_start(self, run: discovery.Discovery) -> None:
        self._connection.send("started")


def slow_down_filling(connection: Connection) -> None:
    """Wait before every file that is written or moved when the folder is filled, and say when that begins."""
    fill = RunFolder.fill

    def slowly(self: RunFolder, write: Any) -> None:
        connection.send("filling")
        for name in ("replace", "rename", "unlink", "mkdir"):
            setattr(Path, name, _after_a_pause(getattr(Path, name)))
        fill(self, write)

    RunFolder.fill = slowly  # type: ignore[method-assign]


def _after_a_pause(function: Any) -> Any:
    def paused(*arguments: Any, **options: Any) -> Any:
        time.sleep(PAUSE)
        return function(*arguments, **options)

    return paused


def discover(folder: Path, spec: dict[str, Any], connection: Connection, filling: bool) -> None:
    """Start or resume the run in a folder; the work of one process."""
    if filling:
        slow_down_filling(connection)
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    discoverer = Discoverer("cpu", callbacks=[Started(connection)], memory_budget="1GB")
    discoverer.run("toy", "ioi", {"class_path": "acdc", "init_args": spec}, examples=6, out=folder, resume=True)


def attempt(
    context: ForkServerContext, folder: Path, spec: dict[str, Any], delay: float | None, filling: bool = False
) -> tuple[int, float]:
    """Start a run, and kill it `delay` seconds after its search began; with None it runs to its end.

    With `filling`, the delay counts from when the folder begins to be filled, slowly.

    Returns:
        The exit status (negative: the signal), and the seconds from the start of the search to the end.
    """
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=discover, args=(folder, spec, sender, filling))
    process.start()
    wait([receiver, process.sentinel])
    while filling and process.is_alive() and not (receiver.poll(0.01) and receiver.recv() == "filling"):
        pass
    begun = time.perf_counter()
    process.join(delay)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, time.perf_counter() - begun


def differences(found: Result, whole: Result) -> list[str]:
    """List what is not equal bit for bit."""
    names = [name for name in COUNTS if found.metrics.get(name) != whole.metrics.get(name)]
    if len(found.circuits) != len(whole.circuits):
        return [*names, "the number of circuits"]
    for number, (one, other) in enumerate(zip(found.circuits, whole.circuits, strict=True)):
        for part in ("scores", "kept", "score_sources"):
            if not torch.equal(getattr(one, part), getattr(other, part)):
                names.append(f"{part} of circuit {number}")
    return names


def undisturbed(context: ForkServerContext, home: Path) -> list[tuple[Result, float]]:
    """Run every search to its end; return the results, and the seconds that they take."""
    wholes = []
    for number, spec in enumerate(SPECS):
        status, seconds = attempt(context, home / f"whole_{number}", spec, None)
        if status:
            sys.exit(f"An undisturbed run failed with status {status}.")
        wholes.append((Result.load(home / f"whole_{number}"), seconds))
    return wholes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    methods = ["circuitkit.strategies.acdc", "circuitkit.strategies.edge_pruning"]
    context.set_forkserver_preload(["circuitkit.run.discoverer", *methods, "circuitkit.tasks.ioi"])
    kills = runs = too_late = in_filling = 0
    with tempfile.TemporaryDirectory() as home:
        wholes = undisturbed(context, Path(home))
        while kills < arguments.kills:
            which = runs % len(SPECS)
            whole, seconds = wholes[which]
            folder, wanted, done = Path(home) / f"run_{runs}", generator.randint(1, MOST_KILLS), 0
            status = -signal.SIGKILL
            while status == -signal.SIGKILL:
                last = done == wanted or kills + done == arguments.kills
                filling = not last and generator.random() < 0.5
                delay = None if last else generator.uniform(0, FILLING if filling else seconds)
                status, _ = attempt(context, folder, SPECS[which], delay, filling)
                in_filling += filling and status == -signal.SIGKILL
                done += status == -signal.SIGKILL
                too_late += status == 0 and not last
            found = differences(Result.load(folder), whole) if status == 0 else [f"it failed with status {status}"]
            kills, runs = kills + done, runs + 1
            print(f"run {runs}: killed {done} times; {', '.join(found) or 'equal'}; {kills} kills so far", flush=True)
            if found:
                sys.exit(f"Run {runs} (seed {arguments.seed}) differs: {', '.join(found)}.")
    where = f"{in_filling} while folders were filled; {too_late} more came after the end"
    print(f"{kills} kills in {runs} runs ({where}): every run equal bit for bit")


if __name__ == "__main__":
    main()
