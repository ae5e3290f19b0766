"""What every family and every ablation must do: checks of one of them, with one model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.contracts.weights import all_weights
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation, Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.capture import capture
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer

MakeAblation = Callable[[], Ablation]
_SIZES: Mapping[str, int] = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rotary_dim": 2,
    "sliding_window": 4,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""Of a tiny model of any type: what a configuration does not have is left out."""

_CHECKED = 32
"""How many readers of a model, and edges into each, the two editors are compared on; a tiny model has fewer."""


def random_prompts(
    model: CircuitModel, seed: int = 0, lengths: tuple[int, ...] = (5, 7, 6, 7), positions: int = 1, answers: int = 1
) -> PromptBatch:
    """Make random pairs that part in the middle and share their last token, with different random answers.

    Args:
        model: for its vocabulary, and that of its outputs.
        seed: of the prompts.
        lengths: one per prompt.
        positions: how many answer positions, at the end; with several, the first prompt has one less.
        answers: how many answers, and as many wrong ones, a position has; with several, one prompt has fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary, outputs = model.family.embeddings(), model.family.unembedding()[0].shape[0]
    clean = [torch.randint(vocabulary, (length,), generator=generator, dtype=torch.int64) for length in lengths]
    corrupted = [ids.clone() for ids in clean]
    for ids in corrupted:
        part = slice(len(ids) // 3, len(ids) - 1)
        ids[part] = (
            ids[part] + torch.randint(1, vocabulary, ids[part].shape, generator=generator, dtype=ids.dtype)
        ) % vocabulary

    def draw() -> list[int]:
        different: list[int] = torch.randperm(outputs, generator=generator, dtype=torch.int64).tolist()
        return different[: 2 * answers]

    tokens = [[draw() for _ in range(positions)] for _ in lengths]
    right = [[found[:answers] for found in row] for row in tokens]
    wrong = [[found[answers:] for found in row] for row in tokens]
    where = [list(range(-positions, 0)) for _ in lengths]
    if positions > 1:
        for rows in (right, wrong, where):
            del rows[0][0]
    if answers > 1:
        del right[-1][-1][1:]
    one, other = ([ids.tolist() for ids in side] for side in (clean, corrupted))
    return PromptBatch.from_ids(one, other, right, wrong, answer_positions=where)


# Families


def wrap_tiny_model(model_type: str) -> CircuitModel:
    """Make a tiny random model of a type of transformers', and wrap it, which compares their logits.

    Raises:
        CircuitKitError: its family does not fit.
        NotApplicableError: transformers makes none from a configuration.
    """
    return CircuitModel.from_model(_tiny_model(model_type))


def _tiny_model(model_type: str) -> PreTrainedModel:
    try:
        config: Any = AutoConfig.for_model(model_type)
        known = {name: size for name, size in _SIZES.items() if hasattr(config, name)}
        config = AutoConfig.for_model(model_type, **known)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a configuration of another package raises
        raise NotApplicableError(
            f"transformers makes no tiny {model_type!r} ({' '.join(str(error).split())[:120]}): check it on a model, "
            "with --model FOLDER"
        ) from error
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(1)
        for parameter in made.parameters():
            if parameter.ndim > 1:  # large enough that attention and norms are far from linear
                parameter.copy_(0.8 * torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    made.double().eval()
    return made


def check_views(model: CircuitModel) -> None:
    """Check that the family gives out detached views of the model's own parameters, by head.

    Raises:
        ContractError: it does not.
    """
    storages = {one.untyped_storage().data_ptr() for one in model.model.parameters()}
    storages |= {one.untyped_storage().data_ptr() for one in model.model.buffers()}
    for key, weight in all_weights(model).items():
        if not bool(weight.isfinite().all()):
            refuse(f"The weight {key} is not finite.", "Check what `attention_weights` takes.")
    if model.family.made:
        return
    for layer in range(model.graph.layers):
        attention = model.family.attention_weights(layer)
        for name in ("q", "k", "v", "o"):
            weight = getattr(attention, name)
            heads = model.family.kv_heads if name in ("k", "v") else model.family.heads
            shape = (heads, model.family.head_width, model.family.width)
            if weight.requires_grad or weight.untyped_storage().data_ptr() not in storages:
                refuse(f"`{name}` of layer {layer} is no detached view of a parameter.", "Use `self.matrix(module)`.")
            if tuple(weight.shape) != shape:
                refuse(f"`{name}` of layer {layer} has the shape {list(weight.shape)}.", f"Give {list(shape)}.")
            bias = getattr(attention, f"{name}_bias")
            if bias is not None and (bias.requires_grad or bias.untyped_storage().data_ptr() not in storages):
                refuse(f"`{name}_bias` of layer {layer} is no detached view of a parameter.", "Take it `.detach()`ed.")


def check_ends(model: CircuitModel, batch: PromptBatch) -> None:
    """Check that the circuit of all edges computes what the module computes, and that of none the corrupted run.

    Raises:
        ContractError: it does not.
    """
    run = CircuitRun(PreparedBatch(model, batch, LogitDifference(), Resample()))
    for kept, prompts, what in ((True, batch.clean, "all edges"), (False, batch.corrupted, "no edges")):
        stream = run.final(torch.full((len(model.graph),), kept, dtype=torch.bool))
        found = model.logits(stream).all()
        for row in range(len(batch)):
            real = batch.mask[row]
            with torch.no_grad():
                expected = model.model(prompts[row][real][None]).logits[0, -1]
            if _differ(found[row, -1], expected):
                refuse(
                    f"With {what}, the logits are not the module's own on the "
                    f"{'clean' if kept else 'corrupted'} prompt.",
                    "Something that adds to the stream belongs to no writer, or a norm or position is missing.",
                )


def check_gradients(model: CircuitModel, batch: PromptBatch) -> None:
    """Check first-order effects against autograd through the masked run, edge by edge.

    Raises:
        ContractError: they differ.
    """
    prepared = PreparedBatch(model, batch, LogitDifference(), Resample())
    found = attribute(prepared).double()
    mask = torch.ones(len(model.graph), dtype=model.dtype, requires_grad=True)
    value = MaskedRun(prepared).values(mask[None]).sum()
    (gradient,) = torch.autograd.grad(value, mask)
    if _differ(-found, gradient.double()):
        refuse(
            "First-order effects of edges are not those of autograd through the masked run.",
            "Let `mlp_module`, norms and rotary positions be what the forward pass uses.",
        )


def check_editors(model: CircuitModel, batch: PromptBatch) -> None:
    """Check that the incremental editor gives the values of replaying the whole circuit, reader by reader.

    Of a large model, a sample of its readers is checked, and of the edges into each.

    Raises:
        ContractError: it does not.
    """
    prepared = [PreparedBatch(model, batch, LogitDifference(), Resample())]
    editors = [IncrementalEditor(prepared), ReplayEditor(prepared)]
    graph = model.graph
    for reader in reversed(_sample(graph.n_readers)):
        for editor in editors:
            editor.open(reader)
        removals = torch.eye(graph.prefix(reader), dtype=torch.bool)[_sample(graph.prefix(reader))]
        fast, slow = (editor.values(removals).double() for editor in editors)
        if not bool(slow.isfinite().all()) or not torch.allclose(fast, slow, atol=1e-4 * max(1.0, _largest(slow))):
            refuse(
                f"Removing edges into {graph.reader_names[reader]} has other effects by the incremental editor.",
                "Report it with the family: it declares `parallel`, `coupled` or `causal` wrongly, or the engine errs.",
            )
        for editor in editors:
            editor.commit(removals[0])


def _sample(count: int) -> list[int]:
    """Choose up to `_CHECKED` of the numbers below `count`, evenly, with the first and the last."""
    chosen = min(count, _CHECKED)
    return [number * (count - 1) // max(chosen - 1, 1) for number in range(chosen)]


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _differ(found: Tensor, expected: Tensor) -> bool:
    """Tell whether values differ by more than rounding explains.

    Raises:
        ContractError: nothing can be compared, since the expected ones are all zero, or some are not finite.
    """
    limit = 1e-4 * _largest(expected)
    if not 0 < limit < math.inf:
        refuse(
            "What it should compute is not finite, or zero everywhere, so that nothing can be compared.",
            "Check the weights of the model.",
        )
    return not _largest(found - expected) <= limit  # NaN differs


# Ablations


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
        if not torch.allclose(one, other, atol=1e-4 * _largest(clean)):
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
            if not _largest(fast.final(kept) - expected) <= 1e-4 * _largest(expected):
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
