"""Discoveries by several processes: the cases, and the script that `torchrun` runs in each process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from support.tiny import random_batch, tiny

from circuitkit.errors import CircuitKitError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery

LENGTHS = (6, 7, 5, 7, 6)
"""Of the prompts: padded, and one more for process 0 than for process 1."""
_TRAINED = {"max_steps": 8}
CASES: dict[str, dict[str, Any]] = {
    "acdc": {"strategy": ("acdc", {"threshold": [0.02, 0.1]})},
    "acdc, gpt2, kl, zero": {
        "strategy": ("acdc", {"threshold": 0.01, "absolute": True}),
        "variant": "gpt2",
        "objective": "kl",
        "ablation": "zero",
    },
    "acdc, whole readers, mean": {
        "strategy": ("acdc", {"threshold": 0.02, "try_whole_reader": True}),
        "ablation": "mean",
    },
    "acdc, screened, shuffled": {"strategy": ("acdc", {"threshold": 0.05, "screen": 0.25, "order": "shuffle"})},
    "acdc, replay, two prompts": {
        "strategy": ("acdc", {"threshold": 0.05, "editor": "replay"}),
        "lengths": (6, 4),
    },
    "acdc, keys per head, little memory": {
        "strategy": ("acdc", {"threshold": 0.05}),
        "kv": "head",
        "memory_budget": 620_000,
    },
    "acdc, from eap, rising": {
        "strategy": ("acdc", {"threshold": [0.02, 0.1], "start": "eap", "start_size": 0.5, "rising": True})
    },
    "acdc, raced": {"strategy": ("acdc", {"threshold": 0.05, "race": 1.0, "race_start": 2})},
    "acdc, screened, raced on fresh prompts": {
        "strategy": ("acdc", {"threshold": 0.1, "prompts_per_layer": 4, "race": 1.0, "race_start": 2, "screen": 0.25})
    },
    "pahq_acdc": {"strategy": ("pahq_acdc", {"threshold": 0.02})},
    "eap": {"strategy": ("eap", {})},
    "eap, gpt2, pahq": {"strategy": ("eap", {}), "variant": "gpt2", "precision": "pahq"},
    "eap_ig": {"strategy": ("eap_ig", {"steps": 3})},
    "eap_ig, activations, kl": {"strategy": ("eap_ig", {"over": "activations", "steps": 2}), "objective": "kl"},
    "gim": {"strategy": ("gim", {})},
    "relp": {"strategy": ("relp", {})},
    "hisp": {"strategy": ("hisp", {})},
    "edge_patching": {"strategy": ("edge_patching", {})},
    "random_edges": {"strategy": ("random_edges", {})},
    "stable": {
        "strategy": (
            "stable",
            {
                "strategy": {"class_path": "acdc", "init_args": {"threshold": 0.05}},
                "samples": 5,
                "vary": ["prompts", "order"],
            },
        )
    },
    "edge_pruning": {"strategy": ("edge_pruning", {"target": [0.5, 0.8], "trainer": _TRAINED}), "objective": "kl"},
    "edge_pruning, small batches": {  # of 2, 2 and 1 prompts, so that one process has none of the last
        "strategy": (
            "edge_pruning",
            {
                "target": 0.5,
                "batch_size": 2,
                "writer_gates": True,
                "trainer": {"max_steps": 4, "accumulate_grad_batches": 2},
            },
        )
    },
    "annealed_pruning": {
        "strategy": ("annealed_pruning", {"batch_size": 2, "trainer": {"max_steps": 14}}),
        "objective": "kl",
    },
    "matryoshka": {"strategy": ("matryoshka", {"batch_size": 2, "trainer": {"max_steps": 14}}), "objective": "kl"},
    "ugs": {"strategy": ("ugs", {"edge_penalty": 0.05, "trainer": _TRAINED})},
    "subnetwork_probing": {"strategy": ("subnetwork_probing", {"l0_weight": 3.0, "trainer": _TRAINED})},
}


class _FailsInOne(DiscoveryStrategy):
    """Fails in process 1 while process 0 waits for it."""

    def discover(self, run: Discovery) -> Any:
        if run.processes.rank:
            raise ValueError("only here")
        run.sum(torch.zeros(1, dtype=torch.float64))


class _Counter:
    """Counts reports of progress."""

    def __init__(self) -> None:
        self.reports = 0

    def on_progress(self, *_: Any) -> None:
        self.reports += 1


def discover(case: dict[str, Any], devices: int = 1, callbacks: Any = (), **more: Any) -> Result:
    """Run one of the cases."""
    model = tiny(case.get("variant", "llama"), kv=case.get("kv", "group"))
    discoverer = Discoverer("cpu", devices, callbacks=callbacks, seed=3, memory_budget=case.get("memory_budget"))
    options = {key: case[key] for key in ("objective", "ablation", "precision") if key in case}
    strategy = case["strategy"]
    if isinstance(strategy, tuple):
        strategy = dict(zip(("class_path", "init_args"), strategy, strict=True))
    task = random_batch(lengths=case.get("lengths", LENGTHS))
    return discoverer.run(model, task, strategy, sizes=(), **options, **more)


def circuits(result: Result) -> list[dict[str, Any]]:
    """Return what a result says of its circuits."""
    names = ("scores", "kept", "score_sources", "selection")
    return [{name: getattr(circuit, name) for name in names} for circuit in result.circuits]


def ends(result: Result) -> list[torch.Tensor]:
    """Return the ends of the scores' intervals, which process 0 computes; none without intervals."""
    intervals = result.score_intervals
    return [] if intervals is None else [torch.from_numpy(end) for end in (intervals.low, intervals.high)]


def launch(*command: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Launch a Python module or script in two processes; waiting for each other is an error after a while."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    tests = Path(__file__).parents[1]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent))), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, *command], env=variables, capture_output=True, text=True, timeout=240, check=False, **more
    )


def main(folder: Path) -> None:
    """Run the cases, resume the interrupted runs in a folder, and fail in one process; save what this one found."""
    devices = int(os.environ["WORLD_SIZE"])
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        result = discover(case, devices)
        found |= {name: circuits(result), f"intervals of {name}": ends(result)}
    for out in sorted(folder.glob("interrupted *")):
        for name in (out.name, out.name.replace("interrupted", "finished")):
            case, counter = CASES[name.split(" ", 1)[1]], _Counter()
            result = discover(case, devices, [counter], out=out, resume=True)
            found |= {name: circuits(result), f"reports of {name}": counter.reports, f"notes of {name}": result.notes}
    for name, strategy in (("failure", _FailsInOne()), ("run after it", "eap")):
        try:
            discover({"strategy": strategy}, devices)
        except (ValueError, CircuitKitError) as error:
            found[name] = str(error)
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
