"""The gradient at every reader's input, from one forward and one backward pass for all readers.

The readers of a block all read the same stream, whose gradient is the sum of theirs. So one backward pass suffices: it
computes the gradients of a block's readers, passes them to a callback, adds them up, and drops them.

Steps:

1. Run the clean prompts, and keep the differences õ - o.
2. Run them again under autograd, with some writers' outputs interpolated between clean and ablated. Without
   interpolation this is the run of step 1.
3. Run one backward pass from the objective.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitkit.circuit.graph import Block, EdgeGraph
from circuitkit.engine import memory
from circuitkit.engine.ablation import Zero
from circuitkit.engine.memory import kept_by_autograd
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import UsageError
from circuitkit.models.attention import Attention
from circuitkit.models.backward_rule import PLAIN, BackwardRule

GradientCallback = Callable[[Block, Tensor], None]
"""Takes a block and the gradients at its readers, `[R, B, T, D]`, summed over integration steps."""
GetAttention = Callable[[], Attention]
"""Returns a layer's attention; called again in the backward pass, so that autograd keeps no weights of a policy."""
OutputCallback = Callable[[slice, Tensor], None]
"""Takes the numbers of writers and their outputs, `[n, 1, B, T, D]`."""


@dataclass(frozen=True)
class Interpolation:
    """Clean runs in which some writers' outputs are mixtures of their clean and their ablated outputs.

    Attributes:
        writers: one of `writer_groups`.
        alphas: the weight of the clean output in each of S runs: õ + alpha (o - õ).

    Raises:
        UsageError: there are no alphas.
    """

    writers: slice
    alphas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.alphas:
            raise UsageError("An interpolation has no alphas.", "Give one per run, such as (0.0, 0.5).")


CLEAN_RUN = Interpolation(slice(0, 1), (1.0,))
"""The clean run alone, of any graph."""


def writer_groups(graph: EdgeGraph) -> list[slice]:
    """List the groups of writers that are interpolated together.

    They are `input` (and `positions`, if that is a writer); the heads of a layer; an MLP.
    """
    groups = [slice(0, graph.inputs)]
    for layer in range(graph.layers):
        groups.append(graph.heads_of(layer))
        if graph.mlps:
            groups.append(slice(graph.mlp(layer), graph.mlp(layer) + 1))
    return groups


class ReaderGradients:
    """The differences õ - o of a batch's writers, and the gradients at its readers.

    Args:
        prepared: model under its policy, prompts, objective and ablation.
        rule: the backward rule of the gradients.
        interpolations: those that `compute` will be asked for.
        memory_budget: bytes for captures and runs; by default half of what is free.

    Attributes:
        ablated_minus_clean: õ - o of every writer, `[W, B, T, D]` (editors and masked runs hold o - õ); complete when a
            callback is called.
    """

    def __init__(
        self,
        prepared: PreparedBatch,
        rule: BackwardRule,
        interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
        memory_budget: int | None = None,
    ) -> None:
        self._prepared = prepared
        self._rule, self._model = rule, prepared.model.under(rule)
        self._memory_budget = memory_budget
        graph = self._model.graph
        if len(next(iter(prepared.policy.groups(graph)))) < graph.n_readers:
            prepared.ablated  # noqa: B018  computed once for all passes
        # One buffer: it starts as the ablated outputs, and each clean output is subtracted when it is computed
        self.ablated_minus_clean = prepared.take_ablated()
        self._ablated_sums = {
            one.writers.start: self.ablated_minus_clean[one.writers].sum(0)
            for one in interpolations
            if one != CLEAN_RUN
        }
        self._scratch: Tensor | None = None  # the outputs of a layer's heads, until they are subtracted
        self._complete = False

    def compute(self, interpolation: Interpolation, callback: GradientCallback, downstream_only: bool = False) -> None:
        """Compute the gradients of these runs' objectives at every reader, summed over the runs.

        Args:
            interpolation: the runs.
            callback: called for the blocks from the last to the first; several times if not all runs fit into memory.
            downstream_only: compute them only at readers downstream of the interpolated writers.

        Raises:
            UsageError: the interpolated writers are not one of `writer_groups`.
        """
        writers, clean = interpolation.writers, self._prepared.inputs.sum(0, keepdim=True)
        if interpolation == CLEAN_RUN:
            self._backward({0: clean}, 0, callback)
            return
        if writers not in writer_groups(self._model.graph):
            raise UsageError(f"The writers {writers} are not one of the groups.", "Choose from writer_groups(graph).")
        if not self._complete:
            with torch.no_grad():
                self._forward({0: clean}, callback)
        for alphas in clean.new_tensor(interpolation.alphas).split(self._steps_at_once()):
            given = {0: clean, writers.start: self._mix(writers, alphas)}
            self._backward(given, writers.start if downstream_only else 0, callback)

    def _mix(self, writers: slice, alphas: Tensor) -> Tensor:
        """Sum the writers' interpolated outputs, `[S, B, T, D]`."""
        ablated, differences = self._ablated_sums[writers.start], self.ablated_minus_clean[writers].sum(0)
        return ablated - alphas[:, None, None, None] * differences

    def _steps_at_once(self) -> int:
        prepared, available = self._prepared, self._memory_budget
        one = PreparedBatch(prepared.model, prepared.batch[:1], prepared.objective, Zero())
        each = len(prepared.batch) * bytes_per_run(one, self._rule)
        if available is None:
            available = memory.budget(prepared.model.device)
        else:
            available -= self.ablated_minus_clean.nbytes
        return max(1, available // each)  # batches are prepared such that one run fits

    @torch.enable_grad()
    def _backward(self, given: Mapping[int, Tensor], start: int, callback: GradientCallback) -> None:
        leaf = given[start].requires_grad_()
        torch.autograd.grad(self._forward(given, callback), leaf)

    def _forward(self, given: Mapping[int, Tensor], callback: GradientCallback) -> Tensor:
        """Compute the objective, summed over runs and prompts. The first run completes the differences.

        Args:
            given: the sum of a group's outputs, `[S, B, T, D]`, by the number of its first writer: of the writers
                before the first layer, and of the interpolated ones. Everything before these is the same in all runs,
                and computed once (S = 1).
            callback: called in the backward pass.
        """
        prepared, model, graph = self._prepared, self._model, self._model.graph
        on_output = None if self._complete else self._subtract
        if on_output is not None:
            on_output(slice(0, graph.inputs), prepared.inputs[:, None])
        stream = given[0] + model.constant(prepared.context)
        for layer in range(graph.layers):
            before = stream
            memory.release(layer, stream)
            heads = given.get(graph.head(layer, 0))
            stream = stream + (self._heads(layer, stream, callback, on_output) if heads is None else heads)
            stream = stream + model.attention_constant(layer)
            if graph.mlps:
                mlp = given.get(graph.mlp(layer))
                read = before if graph.parallel else stream
                stream = stream + (self._mlp(layer, read, callback, on_output) if mlp is None else mlp)
        self._complete, self._scratch = True, None
        stream = _apply(_Read, stream, partial(_call_back, callback, graph.blocks[-1]))
        logits = model.logits(model.at_answers(stream, prepared.batch))
        return prepared.objective.values(logits, prepared.batch, prepared.reference).sum()

    def _heads(
        self, layer: int, stream: Tensor, callback: GradientCallback, on_output: OutputCallback | None
    ) -> Tensor:
        """Compute the sum of a layer's heads, `[S, B, T, D]`."""
        model, graph, context = self._model, self._model.graph, self._prepared.context
        get: GetAttention = partial(model.attention, layer)
        q, k, v = _apply(_Project, stream, get, graph.kv_readers, partial(_call_back, callback, graph.attention(layer)))
        attention, rotary = get(), model.rotary(layer, context)
        q, k = attention.norm_and_rotate("q", q, rotary), attention.norm_and_rotate("k", k, rotary)
        v = attention.norm_and_rotate("v", v, rotary)
        z = attention.attend_values(q, k, v, model.attention_mask(layer, context))
        if on_output is None:
            total = _apply(_ProjectOut, z, get, None, None)
        else:
            if self._scratch is None:  # one for all layers: the allocator leaves no holes between what autograd keeps
                self._scratch = z.new_empty(graph.heads, z[0, ..., 0].numel(), stream.shape[-1])
            total = _apply(_ProjectOut, z, get, partial(on_output, graph.heads_of(layer)), self._scratch)
        if attention.norm_after is not None:
            total = attention.norm_after(total)
        return self._add_offset(graph.heads_of(layer), total)

    def _mlp(self, layer: int, read: Tensor, callback: GradientCallback, on_output: OutputCallback | None) -> Tensor:
        """Compute an MLP's output, `[S, B, T, D]`."""
        model, graph = self._model, self._model.graph
        under_policy = self._prepared.policy.low_precision_writers() is not None
        mlp = model.checkpoint_mlp if under_policy else model.mlp
        output = mlp(layer, _apply(_Read, read, partial(_call_back, callback, graph.mlp_block(layer))))
        writer = slice(graph.mlp(layer), graph.mlp(layer) + 1)
        if on_output is not None:
            on_output(writer, output.detach()[None])
        return self._add_offset(writer, output)

    def _add_offset(self, writers: slice, total: Tensor) -> Tensor:
        """Add the offsets of some writers to the sum of their outputs."""
        offset = self._prepared.offset(writers)
        return total if offset is None else total + offset.sum(0)

    def _subtract(self, writers: slice, outputs: Tensor) -> None:
        """Subtract clean outputs from the differences."""
        self.ablated_minus_clean[writers] -= outputs[:, 0]
        if (offset := self._prepared.offset(writers)) is not None:
            self.ablated_minus_clean[writers] -= offset


def bytes_per_run(prepared: PreparedBatch, rule: BackwardRule = PLAIN) -> int:
    """Count the bytes of a run under autograd: what it keeps of all layers, and a layer's reader gradients.

    What it keeps is measured on the first layer.

    Args:
        prepared: one prompt.
        rule: the backward rule.
    """
    model, gradients = prepared.model, ReaderGradients(prepared, rule)
    gradients._complete = True
    stream = prepared.inputs[:1].clone().requires_grad_()

    def run_layer() -> Tensor:
        total = gradients._heads(0, stream, lambda *_: None, None)
        return total + gradients._mlp(0, stream, lambda *_: None, None) if model.graph.mlps else total

    known = [*model.model.parameters(), *model.model.buffers(), *prepared.context.tensors()]
    kept = kept_by_autograd(run_layer, iter(known))
    return model.graph.layers * kept + 2 * model.graph.readers_per_layer * prepared.inputs[0].nbytes


def _call_back(callback: GradientCallback, block: Block, gradients: Tensor) -> None:
    """Pass on the gradients `[R, S, B, T, D]` of a block's readers."""
    if block.kind == "attention":
        memory.release(block.layer, gradients[0])
    callback(block, gradients[:, 0] if gradients.shape[1] == 1 else gradients.sum(1))


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Call `Function.apply`, which torch leaves untyped."""
    return function.apply(*arguments)


class _Read(torch.autograd.Function):
    """Identity on a reader's input; the backward pass also gives its gradient to a callback."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call_back: Callable[[Tensor], None]) -> Tensor:
        ctx.call_back = call_back
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.call_back(gradient[None])
        return gradient, None


class _Project(torch.autograd.Function):
    """`Attention.project` for all queries, keys and values of a layer; the callback gets one gradient per reader."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, get: GetAttention, kv_readers: int, call_back: Callable[[Tensor], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.get, ctx.call_back = get, call_back
        attention = get()
        normed = attention.norm(x)[None]
        q, k, v = (attention.project(kind, normed) for kind in ("q", "k", "v"))
        share = kv_readers // k.shape[0]  # above 1 if each query head reads its own keys and values (kv="head")
        return q, k.repeat_interleave(share, 0), v.repeat_interleave(share, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,), attention = ctx.saved_tensors, ctx.get()
        readers = sum(gradient.shape[0] for gradient in gradients)
        inputs = x.new_empty(readers, x.numel() // x.shape[-1], x.shape[-1])  # [R, S * B * T, D]
        start = 0
        for gradient, kind in zip(gradients, ("q", "k", "v"), strict=True):
            weight, _ = attention.projection(kind)
            stop = start + gradient.shape[0]
            share = gradient.shape[0] // weight.shape[0]
            rows = gradient.reshape(weight.shape[0], -1, weight.shape[1])
            torch.bmm(rows, weight, out=inputs[start:stop].view(weight.shape[0], share * inputs.shape[1], -1))
            start = stop
        by_reader = attention.norm.vjp(x, inputs.view(readers, *x.shape))
        ctx.call_back(by_reader)
        return by_reader.sum(0), None, None, None


class _ProjectOut(torch.autograd.Function):
    """The sum of `Attention.project_out` over heads; each head's own output goes to a callback, if there is one.

    The norm after the attention, if there is one, is in the callback's outputs, and not yet in the sum.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, get: GetAttention, on_output: Callable[[Tensor], None] | None, scratch: Tensor | None
    ) -> Tensor:
        ctx.get, attention = get, get()
        if on_output is None:
            return z.movedim(0, -2).flatten(-2) @ attention.weights.o.flatten(0, 1)
        outputs = attention.project_out(z, out=scratch)  # [H, S, B, T, D]
        on_output(attention.normalize(outputs))
        return outputs.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        o = ctx.get().weights.o
        by_head = (gradient @ o.reshape(-1, o.shape[-1]).T).unflatten(-1, (o.shape[0], -1))  # [*, H, E]
        return by_head.movedim(-2, 0), None, None, None
