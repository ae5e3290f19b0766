"""Send signals to runs under every precision policy at random moments, and check that nothing is lost.

    OMP_NUM_THREADS=1 python tools/signals.py [--signals 300] [--seed 0]

Each run is an ACDC search on an in-memory toy model in a process of its own. SIGINT or SIGTERM arrives at a random
moment of it, alone or followed by another one 5 to 300 ms later. The process then compares the model's weights with
those before the run, bit for bit, or reports that the run said that the model is broken. The run is resumed in a new
process, and its circuits must equal those of an undisturbed run. The last lines are a table; a failure ends the script
with status 1.

Processes are forked from a server that has imported everything.
"""

import argparse
import collections
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from circuitkit.interrupts import TerminationError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies import discovery

SPEC = {"class_path": "acdc", "init_args": {"threshold": 0.1, "absolute": True}}
POLICIES: dict[str, Any] = {
    "full": "full",
    **{
        f"{policy} {mode} {scope}": {"class_path": policy, "init_args": {"mode": mode, "scope": scope}}
        for policy, mode in (("pahq", "int8"), ("pahq", "nf4"), ("all_low", "int8"))
        for scope in ("attention", "attention+mlp")
    },
}


def weights(model: CircuitModel) -> str:
    """Hash all parameters and buffers, with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in model.model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def discover(folder: Path, policy: Any, connection: Connection) -> None:
    """Start or resume the run in a folder, and report on the model; the work of one process."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise TerminationError

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    model = CircuitModel.from_pretrained("toy")
    before, said = weights(model), ""
    connection.send("started")
    for _ in range(3):  # a second signal may arrive outside the run
        try:
            if not said:
                Discoverer("cpu", callbacks=[], memory_budget="1GB").run(
                    model, "ioi", SPEC, precision=policy, examples=4, out=folder, resume=True
                )
                said = "finished"
            time.sleep(0.4)  # for the second signal
            break
        except BaseException as exception:
            said = said or f"{type(exception).__name__}: {exception}"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection.send((weights(model) == before, said))
    os._exit(0)


def attempt(
    context: ForkServerContext, folder: Path, policy: Any, plan: Sequence[tuple[float, int]]
) -> tuple[bool, str]:
    """Run once, with signals at these times after the start; return whether the weights are as before, and the end."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=discover, args=(folder, policy, sender))
    process.start()
    sender.close()
    receiver.recv()
    for delay, number in plan:
        if receiver.poll(delay):
            break
        assert process.pid is not None
        os.kill(process.pid, number)
    try:
        answer: tuple[bool, str] = receiver.recv()
    except EOFError:
        answer = False, f"the process died with status {process.exitcode}"
    process.join()
    return answer


def check(
    context: ForkServerContext, folder: Path, policy: Any, plan: Sequence[tuple[float, int]], whole: Result
) -> str:
    """Disturb a run, resume it, and name what is wrong; empty if nothing is."""
    intact, said = attempt(context, folder, policy, plan)
    if not intact and "broken" not in said and "not restored" not in said:
        return f"weights differ ({said})"
    if said != "finished" and not said.startswith(("KeyboardInterrupt", "TerminationError")):
        return said
    intact, said = attempt(context, folder, policy, [])
    if not intact or said != "finished":
        return f"resumed: {said}"
    found = Result.load(folder)
    same = all(
        torch.equal(one.scores, other.scores) and torch.equal(one.kept, other.kept)
        for one, other in zip(found.circuits, whole.circuits, strict=True)
    )
    return "" if same else "another circuit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["circuitkit.run.discoverer", "circuitkit.strategies.acdc", "circuitkit.tasks.ioi"])
    sent: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as home:
        wholes: dict[str, tuple[Result, float]] = {}
        number = 0
        while sum(sent.values()) < arguments.signals:
            name = list(POLICIES)[number % len(POLICIES)]
            if name not in wholes:
                begun = time.perf_counter()
                assert attempt(context, Path(home) / name, POLICIES[name], []) == (True, "finished")
                wholes[name] = Result.load(Path(home) / name), time.perf_counter() - begun
            whole, seconds = wholes[name]
            plan = [(generator.uniform(0, seconds), generator.choice([signal.SIGINT, signal.SIGTERM]))]
            if generator.random() < 0.5:
                plan.append((generator.uniform(0.005, 0.3), generator.choice([signal.SIGINT, signal.SIGTERM])))
            wrong = check(context, Path(home) / f"run_{number}", POLICIES[name], plan, whole)
            sent[name] += len(plan)
            failures[name] += bool(wrong)
            number += 1
            print(f"run {number}, {name}: {wrong or 'nothing lost'}; {sum(sent.values())} signals so far", flush=True)
    print(f"{'policy':<24}{'signals':>8}{'failures':>9}")
    for name in sent:
        print(f"{name:<24}{sent[name]:>8}{failures[name]:>9}")
    if failures.total():
        sys.exit(1)


if __name__ == "__main__":
    main()
