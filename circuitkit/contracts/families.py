"""What every family must do: checks of one of them, with one model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from circuitkit.contracts.comparing import differ, differ_at_all, largest
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.contracts.weights import all_weights
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import UsageError
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.module_copy import copy_mlp, copy_without_hooks
from circuitkit.models.norm import Norm

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


def check_norms(model: CircuitModel) -> None:
    """Check that norms are given out as what methods that change gradients can change.

    Raises:
        ContractError: one is no `Norm`.
    """
    family = model.family
    norms: list[tuple[str, Any]] = [("final_norm", family.final_norm())]
    for layer in range(model.graph.layers):
        norms.append(("attention_norm", family.attention_norm(layer)))
        norms += [("head_norms", norm) for norm in family.head_norms(layer) or ()]
        norms.append(("attention_norm_after", family.attention_norm_after(layer)))
        if model.graph.mlps:
            norms += [("mlp_norm", family.mlp_norm(layer)), ("mlp_norm_after", family.mlp_norm_after(layer))]
    for name, norm in norms:
        if not isinstance(norm, Norm) and not (norm is None and name.endswith("_after")):
            refuse(f"`{name}` returns a {type(norm).__name__}.", "Return `layer_norm(module)` or `rms_norm(module)`.")


def check_mlps(model: CircuitModel) -> None:
    """Check what methods that change gradients must know of MLPs: the activation function, and whether there are gates.

    Raises:
        ContractError: `mlp_activation` or `gated` does not fit.
        NotApplicableError: the model has no MLPs, or they have no module of an activation function.
    """
    if not model.graph.mlps:
        raise NotApplicableError("the model has no MLPs")
    for layer in range(model.graph.layers):
        try:
            _check_mlp(model, layer)
        except UsageError as error:
            raise NotApplicableError(f"RelP refuses such models: {error.problem}") from error


def _check_mlp(model: CircuitModel, layer: int) -> None:
    """Check one layer's MLP, with its activation function, constants and the identity in the function's place."""
    family, module = model.family, model.family.mlp_module(layer)
    generator = torch.Generator().manual_seed(layer)
    x = torch.randn(1, 4, family.width, generator=generator, dtype=torch.float64).to(model.device, model.dtype)
    x[0, 2], x[0, 3] = x[0, 0] + x[0, 1], 0
    probes = {
        "itself": _Probe(lambda _, output: output),
        "constants": _Probe(lambda _, output: torch.ones_like(output)),
        "identity": _Probe(lambda given, _: given),
    }
    outputs = {}
    for name, probe in probes.items():
        twin = copy_mlp(module, probe, family.mlp_activation)
        with torch.no_grad():
            outputs[name] = functional_call(twin, dict(model.weights.mlp(layer)), (x,))[0]
    gated = differ_at_all(outputs["constants"][0], outputs["constants"][1])
    one, other, both, neither = outputs["identity"]
    function = family.mlp_activation(copy_without_hooks(module))
    affine = gated or not differ_at_all(one + other, both + neither)
    if not probes["itself"].given or not affine or not _is_elementwise(function, probes["itself"].given[0]):
        refuse(
            f"`mlp_activation` of layer {layer} returns {function}, which is not the function that the MLP applies to "
            "each hidden value.",
            "Return the module of its activation function.",
        )
    if gated != family.gated:
        refuse(
            f"`gated` is {family.gated}, but with a constant in place of its activation function the MLP of layer "
            f"{layer} {'still depends' if gated else 'no longer depends'} on its input.",
            f"Set `gated = {gated}`.",
        )


class _Probe(BackwardRule):
    """Changes the output of an activation function, which no rule of a method does, and keeps what that is given."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._change, self.given = change, list[Tensor]()

    def activation(self, x: Tensor, output: Tensor) -> Tensor:
        self.given.append(x)
        return self._change(x, output)


def _is_elementwise(function: nn.Module, x: Tensor) -> bool:
    """Tell whether a change of one number changes that of the result alone."""
    changed = x.clone()
    changed[..., 0] += 1
    with torch.no_grad():
        found, other = function(x), function(changed)
    return found.shape == x.shape and not differ_at_all(found[..., 1:], other[..., 1:])


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
            if differ(found[row, -1], expected):
                refuse(
                    f"With {what}, the logits are not the module's own on the "
                    f"{'clean' if kept else 'corrupted'} prompt.",
                    "Something that adds to the stream belongs to no writer, or a norm or position is missing.",
                )


def check_gradients(model: CircuitModel, batch: PromptBatch, rule: BackwardRule = PLAIN) -> None:
    """Check first-order effects against autograd through the masked run, edge by edge, by one backward rule.

    Raises:
        ContractError: they differ.
        NotApplicableError: the rule cannot be applied to such models.
    """
    try:
        models = (model, model.under(rule))
    except UsageError as error:
        raise NotApplicableError(f"the rule refuses such models: {error.problem}") from error
    plain, ruled = (PreparedBatch(one, batch, LogitDifference(), Resample()) for one in models)
    found = attribute(plain, rule).double()
    mask = torch.ones(len(model.graph), dtype=model.dtype, requires_grad=True)
    value = MaskedRun(ruled).values(mask[None]).sum()
    (gradient,) = torch.autograd.grad(value, mask)
    if differ(-found, gradient.double()):
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
        if not bool(slow.isfinite().all()) or not torch.allclose(fast, slow, atol=1e-4 * max(1.0, largest(slow))):
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
