"""What every ablation must do: checks of one of them, with one model."""

from collections.abc import Callable

import torch
from torch import Tensor

from circuitkit.contracts.comparing import largest
from circuitkit.contracts.outcome import refuse
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.capture import capture
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer

MakeAblation = Callable[[], Ablation]


def check_ablated_outputs(make: MakeAblation, model: CircuitModel, batch: PromptBatch) -> None:
    """Check the shape of the ablated outputs, and what the ablation says of them.

    Raises:
        ContractError: they are not of the shape of all writers' outputs, or others than it says.
    """
    ablation = make()
    with torch.no_grad():
        ablation.fit(model, [batch])
        ablation.check(batch)
        found = ablation.outputs(model, batch, model.context(batch))
    shape = (model.graph.n_writers, len(batch), batch.length, model.family.width)
    try:
        torch.broadcast_to(found, shape)
    except RuntimeError:
        refuse(f"Ablated outputs have the shape {list(found.shape)}.", f"Give {list(shape)}, or what broadcasts to it.")
    if not bool(found.isfinite().all()) or found.dtype != model.dtype:
        refuse(f"Ablated outputs are {found.dtype}, or not finite.", f"Give finite {model.dtype}.")
    first = ablation.first_changed_position(batch)
    if not 0 <= first < batch.length:
        refuse(f"`first_changed_position` is {first}.", f"Return a position from 0 to {batch.length - 1}.")
    _check_positions(ablation, model, batch, found.expand(shape))
    if not ablation.per_prompt and not torch.equal(found.expand(shape), found.expand(shape)[:, :1].expand(shape)):
        refuse("It says `per_prompt = False`, and its outputs differ between prompts.", "Leave it True.")


def _check_positions(ablation: Ablation, model: CircuitModel, batch: PromptBatch, found: Tensor) -> None:
    if not model.family.causal:
        return
    context = model.context(batch)
    with torch.no_grad():
        clean = capture(model, model.inputs(batch.clean, context), context)
    for row in range(len(batch)):
        before = slice(ablation.first_changed_position(batch[row : row + 1]))
        one, other = found[:, row, before], clean[:, row, before]
        if not torch.allclose(one, other, atol=1e-4 * largest(clean)):
            refuse(
                f"Ablated outputs before `first_changed_position`, {before.stop}, are not those of the clean prompt.",
                "Return the first position at which they can differ, such as 0.",
            )


def check_ablated_circuits(make: MakeAblation, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that circuits compute the same with and without the shortcuts that its attributes allow.

    Raises:
        ContractError: they do not.
    """
    ablation = make()
    with torch.no_grad():
        ablation.fit(model, [batch])
        prepared = PreparedBatch(model, batch, LogitDifference(), ablation)
        fast, slow = CircuitRun(prepared), MaskedRun(prepared)
        generator = torch.Generator().manual_seed(0)
        for share in (0.0, 0.05, 0.2, 0.5, 0.9):
            kept = torch.rand(len(model.graph), dtype=torch.float64, generator=generator) < share
            (expected,) = slow.final(kept.to(model.dtype)[None])
            if not largest(fast.final(kept) - expected) <= 1e-4 * largest(expected):
                refuse(
                    "Circuits compute something else if what it declares is used: `is_run` and "
                    "`first_changed_position`.",
                    "Set `is_run = True` only if its outputs are those of one run of the model.",
                )


def check_ablation_runs(make: MakeAblation, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that circuits can be found and measured with it.

    Raises:
        ContractError: a run refuses it, or scores are not finite.
    """
    try:
        result = Discoverer("cpu", callbacks=[]).run(model, batch, "eap", ablation=make(), sizes=(0.1,))
    except CircuitKitError as error:
        refuse(error.problem, error.remedy)
    if not bool(result.circuit.scores.isfinite().all()):
        refuse("Scores with it are not finite.", "Give finite outputs.")
