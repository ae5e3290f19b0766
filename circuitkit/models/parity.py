"""The check on load: the decomposed model computes the same logits as the wrapped one.

The transformers model runs each prompt alone, without padding: what it computes at padded rows (NaN in some
implementations of attention) is of no interest. The decomposed model runs them in one left-padded batch.

Where the difference exceeds the tolerance, rounding and architecture are told apart by a run of the same weights in a
wider dtype (float32 for half precision, float64 for float32): there, the decomposed model must agree closely, and the
wrapped model may be further from this run only by a small factor than the decomposed one is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError
from circuitkit.models.brought import quiet
from circuitkit.models.families.base import Family
from circuitkit.models.linear_layers import named_weights
from circuitkit.models.module_copy import copy_without_hooks, modules_with_hooks

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Allowed difference of the logits, relative to the largest logit, by dtype."""
HALF_TOLERANCE = 5e-2
"""Allowed difference in half precision."""
QUANTIZED_TOLERANCE = 0.2
"""Allowed distance of a quantized model from its dequantized weights: 8-bit layers round their activations too."""
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}
ROUNDING = 4.0
"""How many times further the wrapped model may be from the wider run than the decomposed one."""
LONGEST = 64
"""The longest prompt of the check on load; runs with longer prompts are checked again if a window ends in between."""


class ParityError(CircuitKitError):
    """A family does not represent something of a model's architecture."""


@dataclass(frozen=True)
class Run:
    """What a model computed on the prompts of the check.

    Attributes:
        logits: of the last real positions of each prompt, at most `LONGEST`, one row each, `[N, V]`.
        streams: the stream after the embeddings and after each layer but the last, `[N, D]` each, at all real
            positions; empty unless asked for.
    """

    logits: Tensor
    streams: Sequence[Tensor]


Decomposed = Callable[[PromptBatch, bool], Run]
"""Runs the prompts through a decomposed model; the flag asks for the streams too."""


def parity_batch(vocabulary: int, longest: int) -> PromptBatch:
    """Make two random prompts, a left-padded one of at most 5 tokens, and one of `longest`.

    The short one runs first: it puts dynamically scaled positions back to where they are in a new model.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = (min(5, longest), longest)
    prompts = [
        torch.randint(vocabulary, (length,), generator=generator, dtype=torch.int64).tolist() for length in lengths
    ]
    return PromptBatch.from_ids(prompts, prompts, answers=[0, 0])


def bounds(family: Family) -> set[int]:
    """Return the lengths above which a longer prompt may be computed in another way: windows, scaled positions."""
    windows = {family.window(layer) for layer in range(family.layers)}
    stray = getattr(family.config, "sliding_window", None)  # obeyed by some models' code, ignored by others'
    return {bound for bound in (*windows, stray, family.scales_from()) if isinstance(bound, int)}


@torch.no_grad()
def check(
    model: PreTrainedModel,
    ours: Decomposed,
    wrap: Callable[[PreTrainedModel], Decomposed],
    batch: PromptBatch,
    quantized: bool,
) -> float:
    """Compare the decomposed model's logits with the transformers model's own.

    Args:
        model: the transformers model.
        ours: runs the decomposed model.
        wrap: decomposes another transformers model in the same way.
        batch: left-padded prompts.
        quantized: whether the model's weights are quantized.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        CircuitKitError: they differ by more than rounding explains.
    """
    expected, found = run_transformers(model, batch), ours(batch, False)
    relative, allowed = difference(found.logits, expected.logits), tolerance(model, quantized)
    if relative <= allowed:
        return relative
    # A NaN comes here too. Rounding alone is the cause if wider weights agree, and both runs are near theirs
    widened = widen(model) if bool(expected.logits.isfinite().all()) else None
    if widened is not None:
        wide, exact = wrap(widened), run_transformers(widened, batch)
        limit = TOLERANCE[torch.float32]
        if difference(wide(batch, False).logits, exact.logits) > limit:
            raise refusal(model, wide(batch, True), run_transformers(widened, batch, True), limit)
        if is_rounding(found, expected, exact, quantized):
            return relative
    raise refusal(model, ours(batch, True), run_transformers(model, batch, True), allowed)


def run_transformers(model: PreTrainedModel, batch: PromptBatch, streams: bool = False) -> Run:
    """Run the transformers model on each prompt alone, in evaluation mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with quiet():
            outputs: list[Any] = [
                model(
                    input_ids=row[real][None],
                    attention_mask=real[real][None].long(),
                    output_hidden_states=streams,
                    use_cache=False,
                    logits_to_keep=LONGEST,
                )
                for row, real in zip(batch.clean, batch.mask, strict=True)
            ]
    finally:
        for module in training:
            module.training = True
    # transformers' last hidden state is already normed: it is compared through the logits
    by_layer = zip(*(one.hidden_states[:-1] for one in outputs), strict=True) if streams else ()
    return Run(torch.cat([one.logits[0] for one in outputs]), [torch.cat([x[0] for x in parts]) for parts in by_layer])


def widen(model: PreTrainedModel) -> PreTrainedModel | None:
    """Copy a model in a wider dtype, without hooks, with the weights that its layers compute with; None: no wider."""
    wider = WIDER.get(model.dtype)
    if wider is None:
        return None
    twin: Any = copy_without_hooks(model)
    for name, weight in named_weights(model, model.dtype).items():
        owner = twin.get_submodule(name.rpartition(".")[0])
        values = weight.to(wider) if weight.is_floating_point() else weight
        place = owner._parameters if name.rpartition(".")[2] in owner._parameters else owner._buffers
        place[name.rpartition(".")[2]] = nn.Parameter(values, False) if place is owner._parameters else values
    widened: PreTrainedModel = twin
    return widened


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the largest value of `other`; NaN if anything is not finite."""
    largest = max(other.abs().max().item(), 1e-30)
    return (one.double() - other.double()).abs().max().item() / largest


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Euclidean distance, relative to the length of `other`."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


def tolerance(model: PreTrainedModel, quantized: bool) -> float:
    """Return the difference that needs no further look."""
    return HALF_TOLERANCE if quantized else TOLERANCE.get(model.dtype, HALF_TOLERANCE)


def is_rounding(ours: Run, theirs: Run, wide: Run, quantized: bool) -> bool:
    """Tell whether both runs are about as far from a run of the same weights in a wider dtype."""
    our_error, their_error = distance(ours.logits, wide.logits), distance(theirs.logits, wide.logits)
    allowed = max(ROUNDING * our_error, QUANTIZED_TOLERANCE if quantized else 0.0)
    return their_error <= allowed and our_error <= max(ROUNDING * their_error, TOLERANCE[torch.float32])


def refusal(model: PreTrainedModel, ours: Run, theirs: Run, allowed: float) -> CircuitKitError:
    """Make the error for a difference that rounding does not explain; it names the first layer that differs."""
    if not bool(theirs.logits.isfinite().all()):
        return CircuitKitError(
            f"The {model.config.model_type} model's own logits are not finite.",
            "Check its weights (or its dtype: float16 overflows easily).",
        )
    problem = (
        f"The decomposed {model.config.model_type} model's logits differ from the model's own by "
        f"{difference(ours.logits, theirs.logits):.1e} of the largest (allowed: {allowed:.0e}), "
        f"{_first_difference(ours, theirs, allowed)}."
    )
    if hooked := modules_with_hooks(model):
        shown = ", ".join(hooked[:3]) + (f" and {len(hooked) - 3} more" if len(hooked) > 3 else "")
        return CircuitKitError(
            f"{problem[:-1]}; it has forward hooks ({shown}), which circuitkit does not run.",
            "Remove hooks that change values: handle.remove().",
        )
    return ParityError(problem, "Its architecture has something this family does not represent: choose another model.")


def _first_difference(ours: Run, theirs: Run, allowed: float) -> str:
    for layer, (one, other) in enumerate(zip(ours.streams, theirs.streams, strict=True)):
        if not difference(one, other) <= allowed:
            return "first in the embeddings" if layer == 0 else f"first in layer {layer - 1}"
    return "first in the last layer or the unembedding"
