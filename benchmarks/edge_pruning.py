"""What a training step of edge pruning costs, relative to one plain forward and backward pass of the same prompts.

Run: python benchmarks/edge_pruning.py [--rounds N] [--models gpt2 smollm2] [--prompts 8 32] [--checkpoint] [--smoke]

`gpt2` is the shape of GPT-2 small with random weights, `smollm2` is SmolLM2-135M (fetched before); prompts of 16 random
tokens. Plain: the transformers model's own forward and backward pass to the token embeddings, no gradients of
parameters, logits at the answer position only. Step: a masked run with every edge's mask in (0, 1), and its gradient
with respect to all of them. The passes that prepare a step's prompts are `captures`: the ablated outputs, and the full
model's log-probabilities for objectives that compare with them, as KL does here; a training makes them anew for every
step. The last line is one JSON object:
`ratio` (time of a step relative to plain, by model and prompts), `step_s`, `plain_s`, `captures_s`, `peak_mb` (memory
that a step adds at its peak, above model, prompts and captures).
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import fetched
import torch
from eap import load, plain, prompts
from timing import interleaved, peak_mb

from circuitkit.data.objectives import KLDivergence
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.circuit_model import CircuitModel


def prepare(model: CircuitModel, batch: PromptBatch) -> PreparedBatch:
    """Prepare a batch, and compute everything that its steps need."""
    prepared = PreparedBatch(model, batch, KLDivergence(), Resample())
    for part in ("context", "inputs", "ablated", "reference"):
        getattr(prepared, part)
    return prepared


def step(run: MaskedRun, mask: torch.Tensor) -> None:
    """Run the forward and backward pass of one training step, without the few operations of the gates themselves."""
    torch.autograd.grad(run.values(mask).mean(), mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--smoke", action="store_true", help="check that the script runs: one round of 2 prompts on gpt2 only"
    )
    parser.add_argument("--models", nargs="+", choices=["gpt2", "smollm2"], default=["gpt2", "smollm2"])
    parser.add_argument("--prompts", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--checkpoint", action="store_true", help="compute each layer again in the backward pass")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.models, arguments.prompts = 1, ["gpt2"], [2]
    if "smollm2" in arguments.models:
        fetched.require("smollm2-135m")
    kinds = ("ratio", "step_s", "plain_s", "captures_s", "peak_mb")
    result: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
    for name in arguments.models:
        model = load(name)
        model.model.requires_grad_(False)
        for count in arguments.prompts:
            batch = prompts(model, count)
            run = MaskedRun(prepare(model, batch), checkpoint=arguments.checkpoint)
            mask = torch.rand(1, len(model.graph), generator=torch.Generator().manual_seed(0)).requires_grad_()
            functions: dict[str, Callable[[], object]] = {
                "plain": partial(plain, model, batch),
                "step": partial(step, run, mask),
                "captures": partial(prepare, model, batch),
            }
            label = f"{name}, {count} prompts"
            result["peak_mb"][label] = round(peak_mb(functions["step"]), 1)
            times = interleaved(functions, arguments.rounds)
            result["ratio"][label] = round(times["step"] / times["plain"], 3)
            for kind, seconds in times.items():
                result[f"{kind}_s"][label] = round(seconds, 4)
            print(f"{label}: plain {times['plain']:.3f} s, step {times['step']:.3f} s, {len(model.graph):,} edges")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
