"""How well every method finds circuits that are known by construction (`circuitkit.truth`), by program and ablation.

Run: python benchmarks/truth.py [--programs ...] [--methods ...] [--ablations ...] [--layers N] [--save FILE]
         [--table FIGURE] [--smoke]

Each program is compiled to a model of 4 layers (or `--layers`) of 4 heads, 479 edges, half of the programs as GPT-2 and
half as Llama; every head and MLP that the program does not use is a distractor, and all matrices have noise. Methods
get 32 prompts and the logit difference. Trained ones get KL, which some of their docstrings ask for, and 200 steps of 8
prompts: 1,600 different ones. A method's edges are ranked as `Circuit.ranking` does: the edges that it keeps first,
then by |score|. They are compared with the edges that matter under the ablation (or, where the program is redundant,
with that of its circuits that fits best, or with all of them together).

With --save, finished cells are kept there; started again, the script runs what is missing, failed, or was measured with
other settings. --table prints a table in Markdown. The last line is one JSON object: `best_auroc` by program (the best
method's, under the ablation that suits the program); `auroc`, `average_precision`, `at_true_size` (the part of the
first n edges that is true, with n true edges) and `seconds` by method, program and ablation; `precision` and `recall`
likewise, of the circuits of methods that choose edges; `error` likewise, where a method failed.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import average_precision_score

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.agreement import compute_roc_auc
from circuitkit.run.discoverer import Discoverer
from circuitkit.truth.gpt2_llama import FamilyName
from circuitkit.truth.known_circuit import ABLATIONS, KnownCircuit
from circuitkit.truth.programs import PROGRAMS

LAYERS, HEADS, NOISE, PROMPTS = 4, 4, 0.003, 32
THRESHOLD = 0.2
"""Of ACDC, in nats; the logit difference spans 4 to 20. With `resample`, 0.05 to 0.5 find the same circuits."""
FIGURES = ("auroc", "average_precision", "at_true_size", "precision", "recall", "seconds")
Settings = dict[str, Any]


class Cell(NamedTuple):
    """A method on a program under an ablation."""

    method: str
    program: str
    ablation: str


class Method(NamedTuple):
    """The spec of a strategy, and the objective that it gets."""

    spec: Any
    objective: str = "logit_difference"


def methods(smoke: bool = False) -> dict[str, Method]:
    """Describe the methods: every registered strategy, and pipelines of two."""
    training: dict[str, Any] = {"batch_size": 8, "trainer": {"max_steps": 2 if smoke else 200}}

    def spec(name: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": name, "init_args": arguments}

    search: dict[str, Any] = {"threshold": THRESHOLD, "absolute": True}
    given = {
        "random": "random_edges",
        "eap": "eap",
        "eap_ig": "eap_ig",
        "eap_ig 10 steps": spec("eap_ig", over="inputs", steps=10),
        "eap_ig activations": spec("eap_ig", over="activations", steps=10),
        "gim": "gim",
        "relp": "relp",
        "hisp": "hisp",
        "ensemble": "ensemble",
        "edge_patching": "edge_patching",
        "acdc": spec("acdc", **search),
        "acdc signed": spec("acdc", threshold=THRESHOLD),
        "acdc screened": spec("acdc", **search, screen=0.25),
        "pahq_acdc": spec("pahq_acdc", **search),
        "acdc from eap_ig": spec("acdc", **search, start=spec("eap_ig", over="inputs", steps=10), start_size=0.2),
        "acdc from edge_patching": spec("acdc", **search, start="edge_patching", start_size=0.1),
        "stable acdc": spec("stable", strategy=spec("acdc", **search), samples=5),
    }
    trained = {
        "edge_pruning": spec("edge_pruning", target=0.97, **training),
        "annealed_pruning": spec("annealed_pruning", target=0.97, **training),
        "matryoshka": spec("matryoshka", sizes=[0.005, 0.98], **training),
        "ugs": spec("ugs", **training),
        "subnetwork_probing": spec("subnetwork_probing", **training),
    }
    return {
        **{name: Method(one) for name, one in given.items()},
        **{name: Method(one, "kl") for name, one in trained.items()},
    }


def build(program: str, number: int, layers: int = LAYERS) -> KnownCircuit:
    """Make a program's model; families take turns."""
    family: FamilyName = "llama" if number % 2 else "gpt2"
    nodes = layers * (HEADS + 1)
    return PROGRAMS[program]().build(family, layers=layers, heads=HEADS, distractors=nodes, noise=NOISE)


def settings_of(method: Method, prompts: int, layers: int = LAYERS) -> Settings:
    """Return all that a cell depends on besides its names: figures of other settings are not reused."""
    return {**method._asdict(), "prompts": prompts, "layers": layers, "heads": HEADS, "noise": NOISE}


def run(cell: Cell, known: KnownCircuit, method: Method, prompts: int) -> dict[str, Any]:
    """Run a method, and compare what it found with the truth."""
    start = time.perf_counter()
    try:
        result = Discoverer(seed=0).run(
            known.model,
            known.task,
            method.spec,
            objective=method.objective,
            ablation=cell.ablation,
            examples=prompts,
            sizes=(),
        )
    except CircuitKitError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - start
    truth, alternatives = known.truth(cell.ablation), known.alternatives(cell.ablation)
    references = [truth, *alternatives] if len(alternatives) > 1 else [truth]
    found = max((compare(result.circuit, reference) for reference in references), key=lambda one: one["auroc"])
    return found | {"seconds": round(seconds, 2)}


def compare(circuit: Circuit, reference: Circuit) -> dict[str, float]:
    """Compare a circuit with a reference, as the module describes."""
    right = reference.kept.numpy()
    order = stats.rankdata(circuit.scores.double().abs().numpy()) + len(right) * circuit.kept.numpy()
    found = {
        "auroc": compute_roc_auc(circuit, reference),
        "average_precision": float(average_precision_score(right, order)),
        "at_true_size": _at_size(order, right),
    }
    if not circuit.is_ranking:
        both = int((circuit.kept & reference.kept).sum())
        found |= {"precision": both / max(len(circuit), 1), "recall": both / len(reference)}
    return {name: round(value, 4) for name, value in found.items()}


def _at_size(order: Any, right: Any) -> float:
    """Compute the expected part of the first n edges that is right, if ties are broken at random."""
    size = int(right.sum())
    last = np.sort(order)[::-1][size - 1]
    above, tied = order > last, order == last
    return float((right[above].sum() + right[tied].mean() * (size - above.sum())) / size)


def gather(cells: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """Arrange the figures: by figure, method, program and ablation."""
    found: dict[str, Any] = {"best_auroc": {}}
    for cell, figures in cells.items():
        if PROGRAMS[cell.program].suits == cell.ablation and "auroc" in figures:
            best = found["best_auroc"]
            best[cell.program] = max(best.get(cell.program, 0.0), figures["auroc"])
        for name in (*FIGURES, "error"):
            if name in figures:
                of_method = found.setdefault(name, {}).setdefault(cell.method, {})
                of_method.setdefault(cell.program, {})[cell.ablation] = figures[name]
    return found


def table(cells: dict[Cell, dict[str, Any]], figure: str) -> str:
    """Write a figure as a table in Markdown: a row per method, a column per program, by ablation."""
    programs = [name for name in PROGRAMS if any(cell.program == name for cell in cells)]
    lines = []
    for ablation in ABLATIONS:
        lines += ["", f"| {ablation} | {' | '.join(programs)} |", f"|---|{'---|' * len(programs)}"]
        for method in dict.fromkeys(cell.method for cell in cells):
            row = [cells.get(Cell(method, program, ablation), {}).get(figure) for program in programs]
            lines.append(f"| {method} | {' | '.join('' if one is None else f'{one:.2f}' for one in row)} |")
    return "\n".join(lines)


def key_of(cell: Cell, settings: Settings) -> str:
    return json.dumps({"cell": cell, "settings": settings}, sort_keys=True)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Read saved figures by `key_of`; lines that are cut off, as by a killed process, are skipped."""
    text = file.read_text() if file.exists() else ""
    if text and not text.endswith("\n"):
        file.write_text(text + "\n")  # so that what is added starts a new line
    found = {}
    for line in text.splitlines():
        try:
            saved = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[key_of(saved["cell"], saved.get("settings", {}))] = saved["figures"]
    return found


def main() -> None:
    every = methods()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--methods", nargs="+", choices=every, default=list(every), metavar="METHOD")
    parser.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--table", choices=FIGURES)
    parser.add_argument("--smoke", action="store_true", help="two programs, few prompts and steps")
    arguments = parser.parse_args()
    if arguments.smoke:
        every = methods(smoke=True)
        arguments.programs, arguments.ablations = ["greater_than", "backup"], ["resample"]
    torch.set_num_threads(1)  # the models are small
    prompts = 8 if arguments.smoke else PROMPTS
    saved = read(arguments.save) if arguments.save else {}
    cells: dict[Cell, dict[str, Any]] = {}
    for program in arguments.programs:
        known = None
        for method, ablation in product(arguments.methods, arguments.ablations):
            cell, settings = Cell(method, program, ablation), settings_of(every[method], prompts, arguments.layers)
            key = key_of(cell, settings)
            if key in saved:
                cells[cell] = saved[key]
                continue
            known = known or build(program, list(PROGRAMS).index(program), arguments.layers)
            cells[cell] = run(cell, known, every[method], prompts)
            print(" ".join(cell), cells[cell], flush=True)
            if arguments.save and "error" not in cells[cell]:
                with arguments.save.open("a") as file:
                    file.write(json.dumps({"cell": cell, "settings": settings, "figures": cells[cell]}) + "\n")
    if arguments.table:
        print(table(cells, arguments.table))
    print(json.dumps(gather(cells)))


if __name__ == "__main__":
    main()
