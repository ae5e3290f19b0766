"""What the evaluation of a circuit costs: `CircuitRun` against `MaskedRun`, at MIB's ten sizes.

Run: python benchmarks/evaluation.py [--rounds N] [--prompts N] [--corruption abc] [--smoke]

SmolLM2-135M (fetched before) on IOI, template 0, 16 prompts of the test split, ablation resample, logit difference.
Circuits: the edges with the largest absolute scores of EAP (found on as many prompts of the train split), and of random
scores; unconnected edges are dropped, as in `circuitkit.evaluate`. Times are CPU seconds of this process on one thread,
medians of `--rounds` in turn, so that other load on the machine matters little. Forward equivalents are multiply-adds
relative to a plain forward pass of the prompts. Both runs get the ablated outputs ready, and share them.

The last line is one JSON object, by ranking and size: `edges`, `masked_s` and `circuit_s` (CPU seconds), `ratio`
(masked over circuit), `masked_forwards` and `circuit_forwards` (forward equivalents), `masked_peak_mb` and
`circuit_peak_mb` (MiB that a run adds at its peak), `difference` (the largest between the two values of a prompt, in
logits); `curve_ratio`, that of the ten sizes of a ranking together; `forward_s`, the CPU seconds of a plain forward
pass by circuitkit.
"""

import argparse
import json
import time
from collections import defaultdict
from typing import Any

import fetched
import torch
from timing import interleaved, peak_mb
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.cone_plan import forward_macs
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.evaluation.sizes import SIZES
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.base import Split
from circuitkit.tasks.ioi import IOI


def prepare(model: CircuitModel, corruption: Any, split: Split, prompts: int) -> PreparedBatch:
    batch = IOI(corruption, template=0).prompts(model.tokenizer, split, prompts, 0)
    return PreparedBatch(model, batch, LogitDifference(), Resample())


def masked_forwards(model: CircuitModel, length: int) -> float:
    """Return the forward equivalents of a masked run: a forward pass, and every reader's sum over all writers."""
    sums = sum(len(block.readers) * block.writers for block in model.graph.blocks[:-1]) * model.family.width
    return 1 + length * sums / forward_macs(model, length)


def measure(masked: MaskedRun, run: CircuitRun, kept: Tensor, rounds: int) -> dict[str, float]:
    """Measure both runs of one circuit."""
    functions = {"masked": lambda: masked.final(kept[None]), "circuit": lambda: run.final(kept)}
    difference = float((masked.values(kept[None])[0] - run.values(kept)).abs().max())
    before = run.forward_equivalents
    run.final(kept)
    forwards = run.forward_equivalents - before
    times = interleaved(functions, rounds, time.process_time)
    return {
        "edges": int(kept.sum()),
        "masked_s": round(times["masked"], 4),
        "circuit_s": round(times["circuit"], 4),
        "ratio": round(times["masked"] / times["circuit"], 2),
        "masked_forwards": round(masked_forwards(run.model, run.prepared.batch.length), 3),
        "circuit_forwards": round(forwards, 3),
        "masked_peak_mb": round(peak_mb(functions["masked"]), 1),
        "circuit_peak_mb": round(peak_mb(functions["circuit"]), 1),
        "difference": difference,
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--corruption", choices=["abc", "swap"], default="abc")
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: one round, the toy model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.smoke:
        arguments.rounds, arguments.prompts = 1, 4
    else:
        fetched.require("smollm2-135m")
    model = CircuitModel.from_pretrained("toy" if arguments.smoke else "smollm2-135m")
    model.model.requires_grad_(False)
    prepared = prepare(model, arguments.corruption, "test", arguments.prompts)
    generator = torch.Generator().manual_seed(0)
    rankings = {
        "eap": attribute(prepare(model, arguments.corruption, "train", arguments.prompts)),
        "random": torch.rand(len(model.graph), generator=generator, dtype=torch.float32),
    }
    masked, run = MaskedRun(prepared), CircuitRun(prepared)
    plain = {"forward": lambda: model.final_stream(prepared.batch)}
    forward = interleaved(plain, arguments.rounds, time.process_time)["forward"]
    print(f"{len(model.graph):,} edges; a plain forward pass takes {forward:.3f} s")
    result: dict[str, Any] = {"forward_s": round(forward, 4), "curve_ratio": {}}
    for ranking, scores in rankings.items():
        circuit = Circuit.from_scores(model.graph, scores)
        total: dict[str, float] = defaultdict(float)
        for size in SIZES:
            kept = circuit.top(int(size * len(model.graph)), absolute=True).prune().kept
            found = measure(masked, run, kept, arguments.rounds)
            for name, value in found.items():
                result.setdefault(name, {}).setdefault(ranking, {})[size] = value
                total[name] += value
            print(f"{ranking} {size}:", ", ".join(f"{name} {value:,.6g}" for name, value in found.items()), flush=True)
        result["curve_ratio"][ranking] = round(total["masked_s"] / total["circuit_s"], 2)
        print(f"{ranking}, ten sizes: masked runs {total['masked_s']:.2f} s, circuit runs {total['circuit_s']:.2f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
