"""Kill comparisons at random moments, resume them, and compare their tables with that of an undisturbed one.

    OMP_NUM_THREADS=1 python tools/grid_kills.py [--kills 20] [--seed 0]

A comparison of searches on the toy model runs in a process of its own, whose cells run in processes of theirs. At a
random moment it gets SIGKILL, as by `kill -9`: half of the times it alone, half of the times with all of its process
group. Then it is started again with `resume`. After one to five kills it runs to its end. Its table must equal that of
an undisturbed comparison, except for times, memory, and the notes that say it was resumed. A difference ends the script
with status 1.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pandas

from circuitkit.comparison.comparison_folder import PARQUET
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.runner import compare
from circuitkit.report.comparison_tables import NOTES
from circuitkit.storage.owned_folder import LOCK

GRID: dict[str, Any] = {
    "models": {"toy": "toy"},
    "tasks": {"ioi": "ioi"},
    "strategies": {
        "eap": "eap",
        "acdc": {"class_path": "acdc", "init_args": {"threshold": [0.05, 0.3], "absolute": True}},
        "edge_pruning": {"class_path": "edge_pruning", "init_args": {"trainer": {"max_steps": 100}}},
    },
    "seeds": [0, 1],
    "examples": 8,
    "sizes": [0.02, 0.1, 0.5],
}
MOST_KILLS = 5
"""The largest number of kills of one comparison."""


def run(out: Path, grid: dict[str, Any]) -> None:
    """Start or resume the comparison in a folder; the work of one process."""
    os.setpgid(0, 0)
    compare(Grid(**grid), out, resume=True, accelerator="cpu", workers=2)


def attempt(
    context: ForkServerContext, out: Path, grid: dict[str, Any], delay: float | None, group: bool = False
) -> tuple[int, float]:
    """Start or resume a comparison, and kill it `delay` seconds after it has opened its folder; None: let it end.

    Returns:
        The exit status (negative: the signal), and the seconds from the opening to the end.
    """
    (out / LOCK).unlink(missing_ok=True)  # of a killed process
    process = context.Process(target=run, args=(out, grid))
    process.start()
    while process.is_alive() and not (out / LOCK).exists():
        time.sleep(0.01)
    begun = time.perf_counter()
    process.join(delay)
    if process.exitcode is None:
        assert process.pid is not None
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, time.perf_counter() - begun


def table(out: Path) -> pandas.DataFrame:
    """Read a comparison's table, without what an interruption changes."""
    found = pandas.read_parquet(out / PARQUET).drop(columns=["wall_s", "peak_mb", "evaluation_s"])
    split = (notes.split(NOTES) for notes in found["notes"])
    return found.assign(notes=[NOTES.join(note for note in notes if "interrupted" not in note) for notes in split])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grid_kills", "circuitkit.strategies.acdc", "circuitkit.tasks.ioi"])
    kills = runs = too_late = 0
    with tempfile.TemporaryDirectory() as home:
        status, seconds = attempt(context, Path(home) / "whole", GRID, None)
        if status:
            sys.exit(f"The undisturbed comparison failed with status {status}.")
        whole = table(Path(home) / "whole")
        while kills < arguments.kills:
            out, wanted, done = Path(home) / f"run_{runs}", generator.randint(1, MOST_KILLS), 0
            status = -signal.SIGKILL
            while status == -signal.SIGKILL:
                last = done == wanted or kills + done == arguments.kills
                delay = None if last else generator.uniform(0, seconds)
                status, _ = attempt(context, out, GRID, delay, group=generator.random() < 0.5)
                done += status == -signal.SIGKILL
                too_late += status == 0 and not last
            if status:
                sys.exit(f"Comparison {runs} (seed {arguments.seed}) failed with status {status}.")
            equal = table(out).equals(whole)
            kills, runs = kills + done, runs + 1
            outcome = "equal" if equal else "differs"
            print(f"comparison {runs}: killed {done} times; {outcome}; {kills} kills so far", flush=True)
            if not equal:
                sys.exit(f"Comparison {runs} (seed {arguments.seed}) differs.")
    print(f"{kills} kills of {runs} comparisons ({too_late} more came after the end): every table equal")


if __name__ == "__main__":
    main()
