"""Edge pruning and EAP on the toy model: three sparsities, five seeds, equal numbers of connected edges.

    OMP_NUM_THREADS=1 python tools/edge_pruning_seeds.py [--seeds 5] [--targets 0.7 0.85 0.95]

Faithfulness is measured on 32 held-out prompts of the seed. EAP's circuit has as many connected edges or a few more.
The agreement of the seeds' circuits is the mean Jaccard index of their edges over all pairs.
"""

import argparse
import itertools
import statistics

from circuitkit import Circuit, CircuitModel, evaluate
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies.edge_pruning import EdgePruning


def faithfulness(model: CircuitModel, circuit: Circuit, seed: int) -> float:
    (own,) = evaluate(model, circuit, "ioi", sizes=[1.0], seed=seed).curve("own")
    return own.faithfulness or 0.0


def at_least(scored: Circuit, edges: int) -> Circuit:
    """Return the smallest circuit of the ranking that has at least so many connected edges."""
    return next(one for n in range(len(scored.graph)) if len(one := scored.top(n).prune()) >= edges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.7, 0.85, 0.95])
    arguments = parser.parse_args()
    toy = CircuitModel.from_pretrained("toy")
    found: dict[float, list[Circuit]] = {target: [] for target in arguments.targets}
    rows: dict[float, list[tuple[float, float]]] = {target: [] for target in arguments.targets}
    for seed in range(arguments.seeds):
        discoverer = Discoverer("cpu", callbacks=[], seed=seed)
        scored = discoverer.run(toy, "ioi", "eap", sizes=[]).circuit
        circuits = discoverer.run(toy, "ioi", EdgePruning(target=arguments.targets), sizes=[]).circuits
        for target, circuit in zip(arguments.targets, circuits, strict=True):
            of_eap = at_least(scored, len(circuit))
            pair = faithfulness(toy, circuit, seed), faithfulness(toy, of_eap, seed)
            found[target].append(circuit)
            rows[target].append(pair)
            sparsity = 1 - len(circuit) / len(toy.graph)
            print(f"seed {seed}, target {target}: sparsity {sparsity:.4f}, edges {len(circuit)} (EAP {len(of_eap)}), "
                  f"faithfulness {pair[0]:.3f} (EAP {pair[1]:.3f})", flush=True)  # fmt: skip
    for target, pairs in rows.items():
        means = [
            f"{statistics.mean(column):.3f} ± {statistics.stdev(column):.3f}" for column in zip(*pairs, strict=True)
        ]
        jaccard = [
            float((a.kept & b.kept).sum() / (a.kept | b.kept).sum())
            for a, b in itertools.combinations(found[target], 2)
        ]
        better = sum(ours >= theirs for ours, theirs in pairs)
        print(f"target {target}: edge pruning {means[0]}, EAP {means[1]}, at least as faithful in {better} of "
              f"{len(pairs)}, Jaccard of the seeds' circuits {statistics.mean(jaccard):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
