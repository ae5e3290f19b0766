"""How sums of deltas over kept edges are fastest: by bags, or as matrix products.

Run: python benchmarks/sums.py [--layers 5 15 25] [--densities 0.03 0.1 0.3 1] [--examples 8] [--rounds 3] [--smoke]

SmolLM2-135M on IOI template 0, KL divergence. For circuits of random edges of each density (1: the full model), the
incremental editor computes hypotheses about the MLP of each layer, with bags (`embedding_bag`) only, and with the rule
that takes a product where it is expected to be faster (`KeptEdges.dense`). Seconds are of the processor, on one thread.

The last line is one JSON object: `hypotheses`, how many were timed at once, and `rows`, with `layer`, `density`, the
seconds of a hypothesis with `bags` and with the `rule`, and their `ratio`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import fetched
import torch
from timing import interleaved
from torch import Tensor

from circuitkit import CircuitModel
from circuitkit.data.objectives import KLDivergence
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.deltas import KeptEdges
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.tasks.ioi import IOI

HYPOTHESES = 7
"""Besides the circuit itself."""


@contextmanager
def bags_only() -> Iterator[None]:
    """Take no matrix products."""
    made = KeptEdges.__init__

    def make(self: KeptEdges, kept: Tensor) -> None:
        made(self, kept)
        self.dense = False

    with patch.object(KeptEdges, "__init__", make):
        yield


def measure(prepared: PreparedBatch, density: float, layer: int, rounds: int) -> dict[str, float]:
    """Time one layer in one circuit."""
    graph = prepared.model.graph
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(len(graph), generator=generator, dtype=torch.float32) < density
    (reader,) = next(block.readers for block in graph.blocks if block.kind == "mlp" and block.layer == layer)
    removals = torch.arange(HYPOTHESES)[:, None] == torch.arange(graph.prefix(reader))
    rule, bags = (IncrementalEditor([prepared], kept.clone()) for _ in range(2))
    rule.open(reader)
    rule.values(removals)  # makes the plan
    with bags_only():
        bags.open(reader)
        bags.values(removals)
    timed = interleaved(
        {"bags": partial(bags.values, removals), "rule": partial(rule.values, removals)}, rounds, time.process_time
    )
    each = {name: seconds / (HYPOTHESES + 1) for name, seconds in timed.items()}
    return {
        "layer": layer,
        "density": density,
        "bags": round(each["bags"], 4),
        "rule": round(each["rule"], 4),
        "ratio": round(each["bags"] / each["rule"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[5, 15, 25])
    parser.add_argument("--densities", nargs="+", type=float, default=[0.03, 0.1, 0.3, 1.0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: toy model, one round")
    options = parser.parse_args()
    if options.smoke:
        options.layers, options.densities, options.examples, options.rounds = [1], [0.3, 1.0], 2, 1
    else:
        fetched.require("smollm2-135m")
    torch.set_num_threads(1)
    model = CircuitModel.from_pretrained("toy" if options.smoke else "smollm2-135m")
    batch = IOI(template=0).prompts(model.tokenizer, "train", options.examples, 0)
    prepared = PreparedBatch(model, batch, KLDivergence(), Resample())
    rows = []
    for layer in options.layers:
        for density in options.densities:
            rows.append(measure(prepared, density, layer, options.rounds))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"hypotheses": HYPOTHESES + 1, "rows": rows}))


if __name__ == "__main__":
    main()
