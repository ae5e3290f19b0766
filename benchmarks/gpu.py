"""Everything that needs a GPU, in one command: the tests marked `cuda`, then searches on the GPU and on the CPU.

Run: python benchmarks/gpu.py [--smoke]

SmolLM2-135M (fetched before) on IOI, 16 prompts: ACDC at 0.3 and EAP, on the CPU in full precision and on the GPU at
several precisions. Agreement is the Jaccard index of the edges found (for EAP the 200 strongest) with those found on
the CPU. The last line is one JSON object: `tests` (pytest's summary), and by run `wall_s`, `peak_mb` and `agreement`.
`--smoke` uses the toy model, and succeeds without a GPU.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import fetched
import torch
from rich.console import Console
from rich.table import Table

from circuitkit.config.specs import Spec
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result

ROOT = Path(__file__).parents[1]
STRATEGIES: dict[str, Spec] = {"acdc": {"class_path": "acdc", "init_args": {"threshold": 0.3}}, "eap": "eap"}
PRECISIONS: dict[str, Spec] = {
    "full": "full",
    "int8": {"class_path": "pahq", "init_args": {"mode": "int8"}},
    "nf4 + MLPs": {"class_path": "pahq", "init_args": {"mode": "nf4", "scope": "attention+mlp"}},
}


def tests() -> str:
    """Run the tests marked `cuda`; return pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        print(ran.stdout)
    return (ran.stdout.strip().splitlines() or ["no output"])[-1]


def edges(result: Result) -> torch.Tensor:
    """Return the edges that were found, bool `[edges]`: the circuit, or the 200 strongest of a ranking."""
    circuit = result.circuit
    ranking = len(circuit) == len(circuit.graph)
    return circuit.top(min(200, len(circuit))).kept if ranking else circuit.kept


def measure(model: str) -> dict[str, dict[str, float]]:
    """Run every strategy on the CPU in full precision, then on the GPU at every precision."""
    found: dict[str, dict[str, float]] = {}
    for name, strategy in STRATEGIES.items():
        reference = None
        for device, precision in [("cpu", "full"), *(("cuda", precision) for precision in PRECISIONS)]:
            discoverer = Discoverer(accelerator=device, callbacks=[])
            result = discoverer.run(model, "ioi", strategy, precision=PRECISIONS[precision], examples=16, sizes=())
            kept = edges(result)
            reference = kept if reference is None else reference
            found[f"{name}, {precision}, {device}"] = {
                "wall_s": round(result.metrics["wall_s"], 3),
                "peak_mb": round(result.metrics["peak_mb"], 1),
                "agreement": round(float((kept & reference).sum() / (kept | reference).sum()), 4),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: the toy model only")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        if not arguments.smoke:
            raise SystemExit("torch finds no CUDA device: there is nothing to run here.")
        print(json.dumps({"skipped": "torch finds no CUDA device"}))
        return
    if not arguments.smoke:
        fetched.require("smollm2-135m")
    summary, found = tests(), measure("toy" if arguments.smoke else "smollm2-135m")
    table = Table("run", "wall s", "peak MB", "agreement", title=torch.cuda.get_device_name())
    for name, figures in found.items():
        table.add_row(name, *map(str, figures.values()))
    Console().print(table, f"tests marked cuda: {summary}")
    print(json.dumps({"tests": summary, **found}))


if __name__ == "__main__":
    main()
