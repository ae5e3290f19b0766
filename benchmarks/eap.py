"""What EAP costs beside one plain forward and backward of the same prompts.

Run: python benchmarks/eap.py [--rounds N] [--models gpt2 smollm2] [--smoke]

`gpt2` is GPT-2 small's shape with random weights, 8 prompts of 16 tokens; `smollm2` is SmolLM2-135M (fetched before)
on 8 prompts of 16 random tokens. Plain: the transformers model's own forward and backward to the token embeddings, no
gradients of parameters, logits at the answer position only. EAP: everything from the two token sequences to the
scores. The last line is one JSON object: `ratio` (time of EAP over plain, by model), `seconds`, `peak_mb` (memory
that a call adds at its peak, above model and prompts).
"""

import argparse
import json

import torch
from timing import interleaved, peak_mb
from transformers import GPT2Config, GPT2LMHeadModel

from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution import attribute
from circuitkit.engine.scene import Scene
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import LogitDifference
from circuitkit.prompts import PromptBatch


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
    """Forward, logit difference, backward to the embeddings, by transformers alone."""
    embedded = model.model.get_input_embeddings()(batch.clean).requires_grad_()
    logits = model.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
    rows = torch.arange(len(batch))
    difference = logits[rows, batch.answers[:, 0, 0]] - logits[rows, batch.wrong_answers[:, 0, 0]]
    torch.autograd.grad(difference.mean(), embedded)


def eap(model: CircuitModel, batch: PromptBatch) -> None:
    """From token ids to scores."""
    attribute(Scene(model, batch, LogitDifference(), Resample()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="one round on gpt2 only: does it run at all?")
    parser.add_argument("--models", nargs="+", choices=["gpt2", "smollm2"], default=["gpt2", "smollm2"])
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.models = 1, ["gpt2"]
    result: dict[str, dict[str, float]] = {"ratio": {}, "plain_s": {}, "eap_s": {}, "peak_mb": {}, "plain_peak_mb": {}}
    for name in arguments.models:
        model = load(name)
        model.model.requires_grad_(False)
        batch = prompts(model)
        functions = {"plain": lambda m=model, b=batch: plain(m, b), "eap": lambda m=model, b=batch: eap(m, b)}
        for kind, peak in (("plain", "plain_peak_mb"), ("eap", "peak_mb")):
            result[peak][name] = round(peak_mb(functions[kind]), 1)
        times = interleaved(functions, arguments.rounds)
        result["ratio"][name] = round(times["eap"] / times["plain"], 3)
        result["plain_s"][name] = round(times["plain"], 4)
        result["eap_s"][name] = round(times["eap"], 4)
        print(f"{name}: plain {times['plain']:.3f} s, EAP {times['eap']:.3f} s, {len(model.graph):,} edges")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
