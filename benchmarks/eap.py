"""What EAP, EAP-IG and GIM cost, relative to one plain forward and backward pass of the same prompts.

Run: python benchmarks/eap.py [--rounds N] [--models gpt2 smollm2] [--smoke]

`gpt2` is the shape of GPT-2 small with random weights, `smollm2` is SmolLM2-135M (fetched before); each gets 8 prompts
of 16 random tokens. Plain: the transformers model's own forward and backward pass to the token embeddings, no gradients
of parameters, logits at the answer position only. The methods: everything from the two token sequences to the scores;
EAP-IG over inputs, 5 steps. The last line is one JSON object with figures by model: time relative to plain (`ratio` of
EAP, `eap_ig_ratio`, `gim_ratio`), seconds (`plain_s`, `eap_s`, ...), and the memory in MiB that a call adds at its
peak, above model and prompts (`peak_mb` of EAP, `plain_peak_mb`, ...).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable

import fetched
import torch
from timing import interleaved, peak_mb
from transformers import GPT2Config, GPT2LMHeadModel

from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.attribution.reader_gradients import Interpolation
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.strategies.gim import GIMRule

INPUTS = Interpolation(slice(0, 1), (0.0, 0.2, 0.4, 0.6, 0.8))
RATIOS = {"eap": "ratio", "eap_ig": "eap_ig_ratio", "gim": "gim_ratio"}
PEAKS = {"plain": "plain_peak_mb", "eap": "peak_mb", "eap_ig": "eap_ig_peak_mb", "gim": "gim_peak_mb"}


def load(name: str) -> CircuitModel:
    if name == "gpt2":
        torch.manual_seed(0)
        return CircuitModel.from_model(GPT2LMHeadModel(GPT2Config()).eval())
    return CircuitModel.from_pretrained("smollm2-135m")


def prompts(model: CircuitModel, count: int = 8, length: int = 16) -> PromptBatch:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.family.unembedding()[0].shape[0]
    clean, corrupted = torch.randint(vocabulary, (2, count, length), generator=generator)
    answers, wrong = torch.randint(vocabulary, (2, count), generator=generator)
    return PromptBatch.from_ids(clean, corrupted, answers, wrong)


def plain(model: CircuitModel, batch: PromptBatch) -> None:
    """Run a forward pass, the logit difference, and a backward pass to the embeddings, with transformers alone."""
    embedded = model.model.get_input_embeddings()(batch.clean).requires_grad_()
    logits = model.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
    rows = torch.arange(len(batch))
    difference = logits[rows, batch.answers[:, 0, 0]] - logits[rows, batch.wrong_answers[:, 0, 0]]
    torch.autograd.grad(difference.mean(), embedded)


def contenders(model: CircuitModel, batch: PromptBatch) -> dict[str, Callable[[], object]]:
    """List what is compared: plain, and the methods from token ids to scores."""

    def prepare() -> PreparedBatch:
        return PreparedBatch(model, batch, LogitDifference(), Resample())

    return {
        "plain": lambda: plain(model, batch),
        "eap": lambda: attribute(prepare()),
        "eap_ig": lambda: attribute(prepare(), interpolations=[INPUTS]),
        "gim": lambda: attribute(prepare(), GIMRule()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: one round on gpt2 only")
    parser.add_argument("--models", nargs="+", choices=["gpt2", "smollm2"], default=["gpt2", "smollm2"])
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.models = 1, ["gpt2"]
    if "smollm2" in arguments.models:
        fetched.require("smollm2-135m")
    result: dict[str, dict[str, float]] = defaultdict(dict)
    for name in arguments.models:
        model = load(name)
        model.model.requires_grad_(False)
        functions = contenders(model, prompts(model))
        for kind, peak in PEAKS.items():
            result[peak][name] = round(peak_mb(functions[kind]), 1)
        times = interleaved(functions, arguments.rounds)
        for kind, ratio in RATIOS.items():
            result[ratio][name] = round(times[kind] / times["plain"], 3)
        for kind, seconds in times.items():
            result[f"{kind}_s"][name] = round(seconds, 4)
        shown = ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in times.items())
        print(f"{name}: {shown}; {len(model.graph):,} edges")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
