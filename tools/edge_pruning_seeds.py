"""Edge pruning and EAP on the toy model: three sparsities, five seeds, equal numbers of connected edges.

    OMP_NUM_THREADS=1 python tools/edge_pruning_seeds.py [--seeds 5] [--targets 0.7 0.85 0.95] [--steps 1000]

EAP has 32 prompts of the seed. Edge pruning draws new ones for every step, these 32 among them, as long as the task
has any; `--prompts 32` gives it the same. Faithfulness is measured on 32 held-out prompts. EAP's circuit has as many
connected edges or a few more. The agreement of the seeds' circuits is the mean Jaccard index of their edges over all
pairs. `--seeds 1 --steps 4` tries the script.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence

from circuitkit import Circuit, CircuitModel, evaluate
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies.edge_pruning import EdgePruning


def faithfulness(model: CircuitModel, circuit: Circuit, seed: int) -> float:
    (own,) = evaluate(model, circuit, "ioi", sizes=[1.0], seed=seed).curve("own")
    return own.faithfulness or 0.0


def at_least(scored: Circuit, edges: int) -> Circuit:
    """Return the smallest circuit of the ranking that has at least so many connected edges."""
    return next(one for n in range(len(scored.graph)) if len(one := scored.top(n).prune()) >= edges)


def _say_mean(values: Sequence[float]) -> str:
    """Format the mean and, of several values, the standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.7, 0.85, 0.95])
    parser.add_argument("--steps", type=int, default=1000, help="of a training")
    parser.add_argument("--prompts", type=int, help="how many different prompts a training uses; by default, new ones")
    arguments = parser.parse_args()
    pruning = EdgePruning(arguments.targets, prompts=arguments.prompts, trainer={"max_steps": arguments.steps})
    toy = CircuitModel.from_pretrained("toy")
    found: dict[float, list[Circuit]] = {target: [] for target in arguments.targets}
    rows: dict[float, list[tuple[float, float]]] = {target: [] for target in arguments.targets}
    for seed in range(arguments.seeds):
        discoverer = Discoverer("cpu", callbacks=[], seed=seed)
        scored = discoverer.run(toy, "ioi", "eap", sizes=[]).circuit
        circuits = discoverer.run(toy, "ioi", pruning, sizes=[]).circuits
        for target, circuit in zip(arguments.targets, circuits, strict=True):
            of_eap = at_least(scored, len(circuit))
            pair = faithfulness(toy, circuit, seed), faithfulness(toy, of_eap, seed)
            found[target].append(circuit)
            rows[target].append(pair)
            sparsity = 1 - len(circuit) / len(toy.graph)
            print(f"seed {seed}, target {target}: sparsity {sparsity:.4f}, edges {len(circuit)} (EAP {len(of_eap)}), "
                  f"faithfulness {pair[0]:.3f} (EAP {pair[1]:.3f})", flush=True)  # fmt: skip
    for target, pairs in rows.items():
        means = [_say_mean(column) for column in zip(*pairs, strict=True)]
        jaccard = [one.jaccard(other) for one, other in itertools.combinations(found[target], 2)]
        agreement = f", Jaccard of the seeds' circuits {statistics.mean(jaccard):.2f}" if jaccard else ""
        better = sum(ours >= theirs for ours, theirs in pairs)
        print(f"target {target}: edge pruning {means[0]}, EAP {means[1]}, at least as faithful in {better} of "
              f"{len(pairs)}{agreement}")  # fmt: skip


if __name__ == "__main__":
    main()
