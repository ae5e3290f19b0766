"""The fewest edges that hold on prompts that nobody searched, by method, and the time that it takes to find them.

Run: python benchmarks/held_out.py [--quick] [--methods ...] [--out FOLDER] [--threads 2] [--smoke]

SmolLM2-135M (fetched before), IOI template 0, KL divergence, ablation resample. A method finds a ranking on prompts of
the train split; the smallest circuit of its first edges that has a faithfulness of 0.8, and of 0.9, on 64 validation
prompts is chosen. What is reported of it is measured on 64 prompts of the train split and 64 of the test split.
`--quick` runs the recommended method alone, annealed pruning.

With --out, the run folders stay there; started again, the script continues. The last line is one JSON object: by the
faithfulness that was asked for, `edges_for` (null: no size reaches it), and faithfulness in the KL divergence (`train`,
`test`) and in the logit difference (`train_ld`, `test_ld`); `minutes` of the search, and `thread_minutes`, those of the
processor summed over threads (null: unknown); `train_prompts`. With several methods, one such object for each; `acdc
from annealed_pruning` needs the run of annealed pruning in this folder, and its times are those of the search alone.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import fetched
import torch
from timing import Seconds

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.bisection import find_size
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.tasks.base import Split
from circuitkit.tasks.ioi import IOI

WANTED = (0.8, 0.9)
PROMPTS = 64
STEPS, BATCH = 560, 8
RECOMMENDED = "annealed_pruning"
FROM_PROPOSAL = f"acdc from {RECOMMENDED}"
OBJECTIVES = {"": KLDivergence(), "_ld": LogitDifference()}


def methods(smoke: bool, folder: Path) -> dict[str, Any]:
    """Describe the methods; the last one starts from the run of the recommended one in `folder`."""
    training: dict[str, Any] = {"batch_size": BATCH, "trainer": {"max_steps": 2 if smoke else STEPS}}
    annealed = {"class_path": RECOMMENDED, "init_args": {"target": 0.9 if smoke else 0.9973, **training}}
    search = {
        "start": str(folder / RECOMMENDED),
        "start_size": 0.1 if smoke else 0.006,
        "threshold": [0.002, 0.008],
        "rising": True,
    }
    return {
        RECOMMENDED: annealed,
        "edge_pruning": {"class_path": "edge_pruning", "init_args": {"target": 0.99, **training}},
        "matryoshka": {"class_path": "matryoshka", "init_args": training},
        "eap_ig": {"class_path": "eap_ig"},
        "acdc": {"class_path": "acdc", "init_args": {"threshold": 0.02, "screen": 0.5}},
        FROM_PROPOSAL: {"class_path": "acdc", "init_args": search},
    }


class Measure:
    """Faithfulness of circuits on the prompts of each split."""

    def __init__(self, model: CircuitModel, task: IOI, prompts: int) -> None:
        self._made = (model, task, prompts)
        self._evaluators: dict[tuple[Split, str], Evaluator] = {}

    def of(self, circuit: Circuit, split: Split, ending: str = "") -> float:
        model, task, prompts = self._made
        if (split, ending) not in self._evaluators:
            batch = task.prompts(model.tokenizer, split, prompts, 0)
            self._evaluators[split, ending] = Evaluator.prepare(model, batch, OBJECTIVES[ending], Resample(), split)
        evaluator = self._evaluators[split, ending]
        found = evaluator.faithfulness(evaluator.value(circuit.kept))
        assert found is not None, "full and ablated model differ on this task"
        return found

    def smallest(self, ranking: Circuit, wanted: float) -> Circuit | None:
        """Choose the smallest circuit of a ranking that reaches a faithfulness on the validation split."""
        reached: list[Circuit] = []

        def reaches(size: int) -> bool:
            circuit = ranking.top(size).prune()
            if self.of(circuit, "validation") < wanted:
                return False
            reached.append(circuit)
            return True

        find_size(len(ranking.graph), reaches)
        return min(reached, key=len, default=None)

    def figures(self, result: Result) -> dict[str, Any]:
        """Return the figures of a run: of the ranking of its last circuit."""
        chosen = {str(wanted): self.smallest(result.circuits[-1], wanted) for wanted in WANTED}
        found: dict[str, Any] = {"edges_for": {wanted: one and len(one) for wanted, one in chosen.items()}}
        splits: tuple[Split, ...] = ("train", "test")
        for split in splits:
            for ending in OBJECTIVES:
                found[split + ending] = {
                    wanted: one and round(self.of(one, split, ending), 3) for wanted, one in chosen.items()
                }
        found["minutes"] = round(result.metrics["wall_s"] / 60, 1)
        found["train_prompts"] = result.metrics.get("train_prompts", result.config["examples"])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(methods(True, Path()))
    parser.add_argument("--quick", action="store_true", help="the recommended method alone")
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, help="keep the run folders here, and continue them")
    parser.add_argument("--threads", type=int, default=2, help="of one process")
    parser.add_argument("--smoke", action="store_true", help="check that it runs: toy model, 2 steps")
    arguments = parser.parse_args()
    name, prompts, chosen = "smollm2-135m", PROMPTS, [RECOMMENDED] if arguments.quick else arguments.methods
    if arguments.smoke:
        name, prompts, chosen = "toy", 8, [RECOMMENDED]
    else:
        fetched.require(name)
        torch.set_num_threads(arguments.threads)
    model, task = CircuitModel.from_pretrained(name), IOI(template=0)
    measure, found = Measure(model, task, prompts), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        seconds = Seconds(folder)
        for method in chosen:
            result = Discoverer(seed=0, callbacks=[seconds]).run(
                model,
                task,
                methods(arguments.smoke, folder)[method],
                objective="kl",
                examples=prompts,
                sizes=[],
                out=folder / method.replace(" ", "_"),
                resume=True,
            )
            spent = seconds.of(method.replace(" ", "_"))
            found[method] = measure.figures(result) | {"thread_minutes": spent and round(spent / 60, 1)}
            print(f"{method}: {json.dumps(found[method])}", flush=True)
    print(json.dumps(found[chosen[0]] if len(chosen) == 1 else found))


if __name__ == "__main__":
    try:
        main()
    except CircuitKitError as error:
        raise SystemExit(str(error)) from error
