"""The memory that dry runs predict, and the memory that the runs then take.

Run: python benchmarks/memory.py [--cases NAME ...] [--prompts 8 64] [--model smollm2-135m] [--smoke]

Every dry run and every run is a process of its own. `predicted` is the dry run's peak, `measured` the larger of the
run's `peak_mb` and `load_peak_mb` (the ablation is fitted before the search), both in MiB beyond the interpreter. Both
include the model. ACDC has two predictions: for a search that keeps few edges, and for one in the full model;
the ratio is to the nearer end, and 1 between them. The last line is one JSON object: `ratio` by case.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from circuitkit import Discoverer

CASES: dict[str, dict[str, Any]] = {
    "eap": {"strategy": "eap"},
    "eap_ig": {"strategy": "eap_ig"},
    "hisp": {"strategy": "hisp"},
    "eap, mean ablation": {"strategy": "eap", "ablation": "mean"},
    "acdc": {"strategy": {"class_path": "acdc", "init_args": {"threshold": 3.0}}},
    "acdc, kl": {"strategy": {"class_path": "acdc", "init_args": {"threshold": 3.0}}, "objective": "kl"},
    "edge_pruning, kl": {
        "strategy": {"class_path": "edge_pruning", "init_args": {"batch_size": 8, "trainer": {"max_steps": 2}}},
        "objective": "kl",
    },
}
"""Arguments of the runs. ACDC's threshold ends the search at once: it keeps few edges."""
MB = 2**20


def predict(model: str, case: dict[str, Any], prompts: int) -> list[float]:
    """Return the predicted peaks in MiB."""
    arguments = {name: value for name, value in case.items() if name != "strategy"}
    found = Discoverer("cpu", callbacks=[]).dry_run(model, "ioi", case["strategy"], examples=prompts, **arguments)
    assert found.peak is not None, "every case's strategy says what it needs"
    return [size / MB for size in found.peak]


def measure(model: str, case: dict[str, Any], prompts: int) -> list[float]:
    """Return the measured peak in MiB."""
    arguments = {name: value for name, value in case.items() if name != "strategy"}
    run = Discoverer("cpu", callbacks=[]).run
    metrics = run(model, "ioi", case["strategy"], sizes=[], examples=prompts, **arguments).metrics
    return [max(metrics["peak_mb"], metrics["load_peak_mb"])]


def in_a_process(action: str, model: str, name: str, prompts: int) -> list[float]:
    """Run `predict` or `measure` in a fresh process."""
    command = [sys.executable, __file__, "--model", model, "--prompts", str(prompts), "--cases", name]
    done = subprocess.run([*command, "--only", action], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def ratio(predicted: list[float], measured: float) -> float:
    """Return measured / predicted: 1 between the two ends of a prediction, otherwise relative to the nearer one."""
    least, most = predicted
    return measured / min(max(measured, least), most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--prompts", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: two cases on the toy model")
    parser.add_argument("--only", choices=["predict", "measure"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        action = predict if arguments.only == "predict" else measure
        print(json.dumps(action(arguments.model, CASES[arguments.cases[0]], arguments.prompts[0])))
        return
    if arguments.smoke:
        arguments.cases, arguments.prompts, arguments.model = ["eap", "acdc"], [8], "toy"
    ratios = {}
    for prompts in arguments.prompts:
        for name in arguments.cases:
            predicted = in_a_process("predict", arguments.model, name, prompts)
            (measured,) = in_a_process("measure", arguments.model, name, prompts)
            ratios[f"{name}, {prompts} prompts"] = round(ratio(predicted, measured), 3)
            shown = " to ".join(dict.fromkeys(f"{size:,.0f}" for size in predicted))
            found = f"predicted {shown} MB, measured {measured:,.0f} MB, ratio {ratio(predicted, measured):.2f}"
            print(f"{name}, {prompts} prompts: {found}", flush=True)
    print(json.dumps({"ratio": ratios}))


if __name__ == "__main__":
    main()
